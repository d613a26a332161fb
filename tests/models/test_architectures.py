"""Every name by which parts of a decoder are known is that of a tiny model."""

from types import SimpleNamespace

import pytest

from pytest_quantcheck.models.neurons import find_neurons
from pytest_quantcheck.models.projections import every_ffn
from tests.tiny_models import CONFIGS, MIXTURES


@pytest.mark.parametrize("name", CONFIGS | MIXTURES)
def test_every_block_has_a_known_ffn(tiny, name):
    """One in a dense block, one for each expert of a mixture and one for what every token passes."""
    neurons = find_neurons(tiny(name))
    assert neurons.tail
    dense = 3 - len(neurons.mixtures)
    experts = sum(mixture.n_experts for mixture in neurons.mixtures.values())
    shared = sum(neurons.activations[layer] is not None for layer in neurons.mixtures)
    assert len(every_ffn(SimpleNamespace(neurons=neurons))) == dense + experts + shared
