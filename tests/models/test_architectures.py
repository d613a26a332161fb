"""Every architecture of the table has a tiny model that is found by it."""

from types import SimpleNamespace

import pytest

from pytest_quantcheck.models.architectures import ARCHITECTURES
from pytest_quantcheck.models.neurons import find_decoder, find_neurons
from pytest_quantcheck.models.projections import every_ffn
from tests.tiny_models import CONFIGS, MIXTURES, make


@pytest.mark.parametrize("one", ARCHITECTURES, ids=lambda one: one.models[0])
def test_listed_models_have_the_architecture(one):
    """Each has its neurons at the path, a known FFN in every block, and a module after the blocks."""
    models = {model.config.model_type: model for model in map(make, CONFIGS | MIXTURES)}
    for name in one.models:
        neurons = find_neurons(models[name])
        assert neurons.tail
        dense = [layer for layer in range(3) if layer not in neurons.mixtures]
        for layer in dense:
            path = one.activation.replace("{}", str(layer))
            assert neurons.activation(layer) is find_decoder(models[name]).get_submodule(path)
        experts = sum(mixture.n_experts for mixture in neurons.mixtures.values())
        shared = sum(neurons.activations[layer] is not None for layer in neurons.mixtures)
        assert len(every_ffn(SimpleNamespace(neurons=neurons))) == len(dense) + experts + shared


def test_every_tiny_model_is_listed():
    """The reference names all that is tested."""
    tested = {make(name).config.model_type for name in CONFIGS | MIXTURES}
    assert tested == {name for one in ARCHITECTURES for name in one.models}
