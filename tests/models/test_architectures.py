"""Every architecture of the table has a tiny model that is found by it."""

from types import SimpleNamespace

import pytest

from pytest_quantcheck.models.architectures import ARCHITECTURES
from pytest_quantcheck.models.neurons import find_decoder, find_neurons
from pytest_quantcheck.models.projections import every_ffn
from tests.tiny_models import CONFIGS, make


@pytest.mark.parametrize("one", ARCHITECTURES, ids=lambda one: one.models[0])
def test_listed_models_have_the_architecture(one):
    """Each has its neurons at the path, a known FFN in every block, and a module after the blocks."""
    models = {model.config.model_type: model for model in map(make, CONFIGS)}
    for name in one.models:
        neurons = find_neurons(models[name])
        assert neurons.activation(1) is find_decoder(models[name]).get_submodule(one.activation.replace("{}", "1"))
        assert neurons.tail
        assert len(every_ffn(SimpleNamespace(neurons=neurons))) == 3


def test_every_tiny_model_is_listed():
    """The reference names all that is tested."""
    assert {make(name).config.model_type for name in CONFIGS} == {name for one in ARCHITECTURES for name in one.models}
