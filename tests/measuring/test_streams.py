"""One layer's stream fed by hand, padding anywhere, against slow float64 NumPy on the real tokens."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_quantcheck.analyses.redundancy import correlation
from pytest_quantcheck.errors import MeasurementError
from pytest_quantcheck.measuring.streams import LayerStream, RealTokens, affordable_neurons, seeded_neurons
from pytest_quantcheck.models.encoding import Batch
from pytest_quantcheck.prompts import PromptSet

CLOSE = 1e-5
"""Promised distance of r from float64."""

GARBAGE = float("nan")
"""What stands at padding: nothing may be read there."""


def prompt_set(n):
    """So many prompts; their rows in the source are 100, 101, ..."""
    return PromptSet("five", ("?",) * n, ("!",) * n, tuple(range(100, 100 + n)), "five.csv", "raw")


def padded_batch(index, lengths, side):
    """A batch of prompts that is padded on the left or on the right."""
    width = max(*lengths, 1)
    real = [[int((width - 1 - i if side == "left" else i) < n) for i in range(width)] for n in lengths]
    mask = torch.tensor(real)
    return Batch(tuple(index), tuple(lengths), torch.zeros_like(mask), mask, mask.cumsum(1) - 1)


def stream(prompts, width=None, *, side="left", size=3, **options):
    """Feed the activations (tokens, neurons) of each prompt, in batches of `size`, through a stream."""
    options = {"rectified": False, "seed": 0, "correlated": 10**6} | options
    taken = LayerStream(prompt_set(len(prompts)), **options)
    for start in range(0, len(prompts), size):
        part = prompts[start : start + size]
        batch = padded_batch(range(start, start + len(part)), [len(p) for p in part], side)
        output = torch.full((*batch.input_ids.shape, part[0].shape[1]), GARBAGE, dtype=part[0].dtype)
        output[batch.real] = torch.cat(part)
        taken.expect(RealTokens.of(batch))
        taken.hook(torch.nn.Identity(), (), output)
    return taken.result()


def normal_prompts(lengths, neurons, dtype=torch.float32, seed=0):
    """Normal activations of prompts of these lengths, some neurons sharing a cause and some constant."""
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(sum(lengths), neurons)) + generator.normal(size=(sum(lengths), 1))
    values[:, 1::5] = 0.3
    return list(torch.split(torch.from_numpy(values).to(dtype), list(lengths)))


def exact(values):
    """Pearson's r in float64, 0 where a neuron is constant."""
    values = values.double().numpy()
    varies = np.flatnonzero(np.ptp(values, axis=0) > 0)
    matrix = np.zeros((values.shape[1], values.shape[1]))
    matrix[np.ix_(varies, varies)] = np.corrcoef(values[:, varies], rowvar=False)
    return matrix


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.lists(st.integers(1, 12), min_size=1, max_size=40), st.integers(1, 60)),
    dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32, torch.float64]),
    side=st.sampled_from(["left", "right"]),
    size=st.integers(1, 9),
    seed=st.integers(0, 2**32),
)
def test_real_tokens_alone_are_seen_whichever_side_is_padded(shape, dtype, side, size, seed):
    """Prompts down to one token, in any batches: extremes to the last bit and correlations are those of NumPy."""
    lengths, neurons = shape
    prompts = normal_prompts(lengths, neurons, dtype, seed)
    found = stream(prompts, side=side, size=size)
    assert found.correlations.count == sum(lengths)
    np.testing.assert_allclose(correlation(found.correlations)[0], exact(torch.cat(prompts)), atol=CLOSE)
    for group, sums in enumerate(found.groups):
        own = torch.cat(prompts[group::16]) if group < len(prompts) else torch.zeros(0, neurons)
        assert sums.count == len(own)
        if len(own):
            assert np.array_equal(found.minimum[group], own.amin(0).float().numpy())
            assert np.array_equal(found.maximum[group], own.amax(0).float().numpy())
            np.testing.assert_allclose(correlation(sums)[0], exact(own), atol=CLOSE)


def test_a_sample_of_neurons_is_correlated_and_all_are_watched():
    """The sums are those of the sampled neurons, the neurons followed are among them, extremes are everyone's."""
    prompts = normal_prompts([9, 30, 4], 700)
    found, whole = stream(prompts, correlated=300), stream(prompts)
    assert len(found.correlated) == len(set(found.correlated.tolist())) == 300
    assert np.array_equal(found.correlated, seeded_neurons(700, 300, seed=0))
    assert np.isin(found.sample, found.correlated).all()
    assert np.array_equal(found.minimum, whole.minimum)
    assert np.array_equal(found.sample, whole.sample)
    chosen = np.ix_(found.correlated, found.correlated)
    np.testing.assert_allclose(
        correlation(found.correlations)[0], correlation(whole.correlations)[0][chosen], atol=1e-6
    )
    assert not np.array_equal(stream(prompts, correlated=300, seed=1).correlated, found.correlated)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 3e19])
@pytest.mark.parametrize("correlated", [10**6, 2])
def test_prompts_that_overflow_are_named_by_their_rows(value, correlated):
    """Two prompts of five, one neuron each, correlated or not: both rows and no others."""
    prompts = normal_prompts([3, 1, 4, 2, 5], 6)
    for prompt, token, neuron in ((1, 0, 5), (4, 3, 0)):
        prompts[prompt][token, neuron] = value
    message = r"NaN, infinity or values beyond float32 in 2 prompts of five \(first in rows 101, 104\)"
    with pytest.raises(MeasurementError, match=message):
        stream(prompts, correlated=correlated)


def test_finite_bf16_and_fp16_activations_pass():
    """The largest fp16 number, and a bf16 one whose square is still float32, are activations like any others."""
    for dtype, largest in ((torch.float16, 65504.0), (torch.bfloat16, 1e18)):
        prompts = normal_prompts([3, 4], 6, dtype)
        prompts[1][2, 3] = largest
        assert stream(prompts).maximum.max() == torch.tensor(largest, dtype=dtype).float()


def test_prompts_without_a_token_are_refused_by_row():
    """Padding alone is no prompt: the rows are named before anything is measured."""
    taken = LayerStream(prompt_set(9), rectified=False, seed=0, correlated=8)
    with pytest.raises(MeasurementError, match=r"no token but padding in 2 prompts of five \(first in rows 104, 106\)"):
        taken.expect(RealTokens.of(padded_batch([4, 5, 6], [0, 3, 0], "left")))


def test_no_activations_at_all_are_an_error():
    """A stream that saw nothing has no result."""
    with pytest.raises(MeasurementError, match="never called"):
        LayerStream(prompt_set(1), rectified=False, seed=0, correlated=8).result()


@pytest.mark.parametrize("shape", [(5, 4, 8), (19, 8)])
def test_outputs_of_other_positions_are_refused(shape):
    """A module that sees some of the tokens only, as an expert does, is not the layer's activation."""
    taken = LayerStream(prompt_set(3), rectified=False, seed=0, correlated=8)
    taken.expect(RealTokens.of(padded_batch([0, 1, 2], [7, 3, 1], "left")))
    with pytest.raises(MeasurementError, match=r"activations of 21 positions, got \((5, 4|19), 8\)"):
        taken.hook(torch.nn.Identity(), (), torch.zeros(shape))


def test_flattened_outputs_are_read_like_others():
    """Some families flatten prompts and tokens into rows before their activation."""
    batch = padded_batch([0, 1], [3, 2], "left")
    found = []
    for shape in ((2, 3, 4), (6, 4)):
        taken = LayerStream(prompt_set(2), rectified=False, seed=0, correlated=8)
        taken.expect(RealTokens.of(batch))
        taken.hook(torch.nn.Identity(), (), torch.arange(24.0).reshape(shape))
        found.append(taken.result())
    assert np.array_equal(found[0].minimum, found[1].minimum)
    assert np.array_equal(found[0].correlations.comoment, found[1].correlations.comoment)


@pytest.mark.parametrize(
    ("parameters", "layers", "expected"),
    [
        (106_000_000, 3, 2506),  # 135M, first, middle and last: all of its 1,536
        (106_000_000, 30, 1024),
        (6_476_000_000, 3, 19589),  # 7B: all of its 11,008
        (6_476_000_000, 32, 5998),
    ],
)
def test_correlations_take_a_tenth_of_the_forward_pass_at_most(parameters, layers, expected):
    """9/8 s^2 operations a layer against 2 a parameter; one neuron more would be too many, but for the least."""
    assert affordable_neurons(parameters, layers) == expected
    budget = 0.2 * parameters
    assert 9 / 8 * layers * (expected + 1) ** 2 > budget
    assert expected == 1024 or 9 / 8 * layers * expected**2 <= budget
