"""Dead neurons and correlations of a measurement, against NumPy on the activations themselves."""

import numpy as np
import pytest
import torch

from pytest_quantcheck.analyses.dead_neurons import dead
from pytest_quantcheck.analyses.redundancy import correlation

LAYERS = (0, 2, 5)

NOISE = 3e-6
"""Left padding moves what the float32 kernels sum in which order: activations move by a few of their last bits (2^-23)
in each of six blocks, relative to their size or, where large ones cancel, to 1. Measured: 3e-7."""

ROUNDING = 5e-6
"""Sums of about 800 products in float32 instead of float64: some ten roundings of 2^-24 relative to r <= 1."""


@pytest.fixture(scope="module")
def activations(loaded, prompts):
    """What a plain hook sees, one unpadded prompt at a time: for each layer one (tokens, neurons) array a prompt."""
    seen = {layer: [] for layer in LAYERS}
    blocks = loaded.model.model.layers
    hooks = [
        blocks[layer].mlp.act_fn.register_forward_hook(lambda _m, _a, out, kept=kept: kept.append(out[0].numpy()))
        for layer, kept in seen.items()
    ]
    with torch.no_grad():
        for text in prompts.texts:
            loaded.model(input_ids=loaded.tokenizer(text, return_tensors="pt")["input_ids"])
    for hook in hooks:
        hook.remove()
    return seen


@pytest.fixture(scope="module")
def unpadded(run, loaded, prompts):
    """A measurement that runs the prompts one by one too, so that the model itself computes the same bits."""
    return run(loaded, prompts, batch_size=1)


@pytest.mark.parametrize("layer", LAYERS)
def test_extremes_are_exact(unpadded, activations, layer):
    """Every group's extremes are those of its prompts (position modulo 16), bit for bit."""
    found = unpadded.activations[layer]
    for group in range(16):
        own = np.concatenate(activations[layer][group::16])
        assert np.array_equal(found.minimum[group], own.min(axis=0))
        assert np.array_equal(found.maximum[group], own.max(axis=0))


@pytest.mark.parametrize("layer", LAYERS)
def test_dead_neurons_are_exact(unpadded, activations, layer):
    """The dead are those whose every activation, over all tokens, lies strictly inside (-0.1, 0.1)."""
    tokens = np.concatenate(activations[layer])
    expected = (np.abs(tokens) < np.float32(0.1)).all(axis=0)
    found = unpadded.activations[layer]
    assert np.array_equal(dead(found.minimum, found.maximum, rectified=found.rectified), expected)


@pytest.mark.parametrize("layer", LAYERS)
def test_correlations_are_numpys(unpadded, activations, layer):
    """Every pair's r is np.corrcoef's in float64, to the rounding of float32."""
    tokens = np.concatenate(activations[layer]).astype(np.float64)
    obtained, defined = correlation(unpadded.activations[layer].correlations)
    assert unpadded.activations[layer].correlations.count == len(tokens)
    assert defined.all()
    np.testing.assert_allclose(obtained, np.corrcoef(tokens.T), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("layer", LAYERS)
def test_groups_correlate_like_their_prompts(unpadded, activations, layer):
    """The followed neurons' r in each group is np.corrcoef's over the tokens of that group's prompts."""
    found = unpadded.activations[layer]
    for group, sums in enumerate(found.groups):
        own = np.concatenate(activations[layer][group::16])[:, found.sample].astype(np.float64)
        np.testing.assert_allclose(correlation(sums)[0], np.corrcoef(own.T), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("layer", LAYERS)
def test_padding_is_not_an_activation(reference, activations, layer):
    """A measurement in padded batches holds the real tokens alone, and what they are to float32 noise."""
    tokens = np.concatenate(activations[layer])
    found = reference.activations[layer]
    assert found.correlations.count == len(tokens)
    for group in range(16):
        own = np.concatenate(activations[layer][group::16])
        np.testing.assert_allclose(found.minimum[group], own.min(axis=0), rtol=NOISE, atol=NOISE)
        np.testing.assert_allclose(found.maximum[group], own.max(axis=0), rtol=NOISE, atol=NOISE)
    expected = np.corrcoef(tokens.astype(np.float64).T)
    np.testing.assert_allclose(correlation(found.correlations)[0], expected, rtol=0, atol=ROUNDING + NOISE)


def test_the_dead_of_a_damaged_layer_are_counted(run, damaged, prompts):
    """Neurons whose gate weights are zeroed are dead and constant, whatever the others do."""
    damaged.model.model.layers[2].mlp.gate_proj.weight.data[7:47] = 0
    found = run(damaged, prompts, samples=1, layers=(2,)).activations[2]
    mask = dead(found.minimum, found.maximum, rectified=found.rectified)
    assert mask[7:47].all()
    assert not correlation(found.correlations)[1][7:47].any()
