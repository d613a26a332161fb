"""Arrays in fewer bytes hold the very same values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pytest_quantcheck.storage.narrowing import narrow, widen

SHAPES = hnp.array_shapes(max_dims=2, min_side=0, max_side=5)
KEPT_BITS = st.sampled_from([0xFFFFFFFF, 0xFFFFE000, 0xFFFF0000])
"""Masks after which float32 is any float32, perhaps float16, and bfloat16."""


@given(hnp.arrays(np.uint32, SHAPES), KEPT_BITS)
def test_floats_come_back_bit_for_bit(bits, kept):
    """Whatever the bits: numbers, infinities, denormal numbers, zeros of both signs, NaN."""
    array = (bits & np.uint32(kept)).view(np.float32)
    obtained = widen(narrow(array), np.float32, array.ndim)
    assert (obtained.dtype, obtained.shape, obtained.tobytes()) == (array.dtype, array.shape, array.tobytes())


@given(st.sampled_from([np.int32, np.int64]).flatmap(lambda dtype: hnp.arrays(dtype, SHAPES)), st.integers(0, 62))
def test_integers_come_back(array, shift):
    """Of any size and sign."""
    array = array >> min(shift, array.itemsize * 8 - 1)
    obtained = widen(narrow(array), array.dtype, array.ndim)
    assert (obtained.dtype, obtained.shape, obtained.tobytes()) == (array.dtype, array.shape, array.tobytes())


@pytest.mark.parametrize(
    ("values", "dtype", "stored"),
    [
        ([0, 255], np.int64, np.uint8),
        ([0, 256], np.int64, np.uint16),
        ([32_000, 65_535], np.int32, np.uint16),
        ([151_936], np.int32, np.uint8),  # three of them
        ([2**24 - 1], np.int64, np.uint8),
        ([2**24], np.int32, np.int32),  # unsigned ones of the same size save nothing
        ([2**24], np.int64, np.uint32),
        ([-1, 3], np.int64, np.int64),
        ([1.5, -np.inf, 3.0e38], np.float32, np.float32),
        ([1.5, -np.inf, 2.0**127], np.float32, np.uint16),
        ([1 + 2**-10, np.inf, 2**-24], np.float32, np.float16),
        ([1 + 2**-10, 65_536], np.float32, np.float32),  # beyond float16
        ([0.1], np.float64, np.float64),
    ],
)
def test_the_narrowest_type_is_taken(values, dtype, stored):
    """And no narrower one."""
    assert narrow(np.array(values, dtype=dtype)).dtype == stored


def test_what_cannot_have_been_narrowed_is_left_alone():
    """A wrong dtype in a file stays wrong, to be refused."""
    for array, dtype in ((np.ones(2, np.uint8), np.bool_), (np.ones(2, np.uint32), np.float32), (np.ones(2), np.int64)):
        assert widen(array, dtype, 1) is array
