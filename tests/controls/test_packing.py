"""The quantizer against a slow one in float64, and what a grid promises."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantcheck.controls.packing import GROUP, pack


def packed_slowly(weight, bits, symmetric):
    """What a weight becomes, and which of its values lie within rounding of the middle between two codes."""
    result, tie = np.empty_like(weight), np.zeros(weight.shape, dtype=bool)
    for row in range(weight.shape[0]):
        for start in range(0, weight.shape[1], GROUP):
            place = row, slice(start, start + GROUP)
            values = weight[place]
            if symmetric:
                least, most, zero = -(2 ** (bits - 1) - 1), 2 ** (bits - 1) - 1, 0.0
                scale = max(abs(values)) / most
            else:
                least, most = 0, 2**bits - 1
                low, high = min(*values, 0.0), max(*values, 0.0)
                scale = (high - low) / most
                zero = np.round(-low / scale) if scale else 0.0
            codes = values / scale if scale else 0 * values
            result[place] = (np.clip(np.round(codes) + zero, least, most) - zero) * scale
            edge = -low / scale if scale and not symmetric else 0.0
            near = (abs(x - np.floor(x) - 0.5) < 1e-4 for x in (codes, edge))
            tie[place] = np.logical_or(*near)
    return result, tie


def random_weight(rows, inputs, seed=0):
    """Normal values that float32 can hold."""
    return np.random.default_rng(seed).standard_normal((rows, inputs)).astype(np.float32).astype(np.float64)


@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 200)),
    bits=st.integers(2, 8),
    symmetric=st.booleans(),
    shift=st.sampled_from([0.0, 0.5, 3.0, -3.0]),
    seed=st.integers(0, 10**6),
)
def test_packing_is_that_of_the_oracle(shape, bits, symmetric, shift, seed):
    """Whatever the shape, the bits and the mean, where float32 leaves no doubt which code is nearest."""
    weight = torch.tensor(random_weight(*shape, seed) + shift, dtype=torch.float32)
    expected, tie = packed_slowly(weight.double().numpy(), bits, symmetric)
    obtained = pack(weight, bits, symmetric=symmetric).weight().double().numpy()
    np.testing.assert_allclose(obtained[~tie], expected[~tie], rtol=1e-5, atol=1e-6)  # a few float32 roundings


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_error_is_at_most_half_a_step(bits, symmetric):
    """Every weight goes to a neighbour on the grid; beside a rounded zero point, half a step more at the ends."""
    weight = torch.tensor(random_weight(8, 128), dtype=torch.float32)
    packed = pack(weight, bits, symmetric=symmetric)
    error = (packed.weight() - weight).abs().unflatten(1, (-1, GROUP)) / packed.scales
    assert error.max() <= (0.5 if symmetric else 1.0) + 1e-4  # float32's rounding of a code up to 255


@pytest.mark.parametrize("symmetric", [True, False])
def test_values_on_the_grid_stay(symmetric):
    """Packing what has been packed changes nothing but the last digit."""
    once = pack(torch.tensor(random_weight(8, 128), dtype=torch.float32), 4, symmetric=symmetric).weight()
    torch.testing.assert_close(pack(once, 4, symmetric=symmetric).weight(), once, rtol=1e-6, atol=1e-7)


def test_zeros_stay_zeros():
    """A group without any weight has no scale of its own, and gives zeros, not NaN."""
    for symmetric in (True, False):
        assert torch.equal(pack(torch.zeros(2, 70), 4, symmetric=symmetric).weight(), torch.zeros(2, 70))


def test_last_group_is_smaller():
    """Inputs that do not fill a group have a scale of their own, as if they stood alone."""
    weight = torch.tensor(random_weight(3, 100), dtype=torch.float32)
    packed = pack(weight, 4)
    assert packed.scales.shape == (3, 2, 1)
    assert torch.equal(packed.weight()[:, GROUP:], pack(weight[:, GROUP:], 4).weight())


def test_half_precision_is_packed_in_float32():
    """A bfloat16 weight gives what its float32 copy gives."""
    weight = torch.tensor(random_weight(4, 128)).bfloat16()
    assert torch.equal(pack(weight, 4).weight(), pack(weight.float(), 4).weight())
