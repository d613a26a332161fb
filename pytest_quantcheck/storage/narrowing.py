"""Arrays in the narrowest type that holds their very values, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]

_UNSIGNED = (np.uint8, np.uint16, np.uint32)


def narrow(array: Array) -> Array:
    """Store the same values in fewer bytes if nothing is lost.

    Integers become the smallest unsigned type that holds all of them, or three bytes each in a last dimension of their
    own, lowest first. float32 values that are exact in bfloat16, as those of a bfloat16 model, become their upper
    halves, uint16; values that are exact in float16 become float16.
    """
    if array.dtype.kind == "i":
        return _narrow_integers(array)
    return _narrow_floats(array) if array.dtype == np.float32 else array


def widen(array: Array, dtype: DTypeLike, dimensions: int) -> Array:
    """Restore the array of `dtype` that was narrowed, bit for bit.

    It has so many `dimensions`. An array that cannot have been narrowed from `dtype` is returned as it is.
    """
    dtype = np.dtype(dtype)
    if dtype.kind == "i" and array.dtype == np.uint8 and array.ndim == dimensions + 1 and array.shape[-1] == 3:
        return np.asarray(array.astype(dtype) @ np.array([1, 2**8, 2**16], dtype=dtype))
    if dtype == np.float32 and array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    if (dtype == np.float32 and array.dtype == np.float16) or (dtype.kind == "i" and array.dtype.kind == "u"):
        return array.astype(dtype)
    return array


def _narrow_integers(array: Array) -> Array:
    least, most = (int(array.min()), int(array.max())) if array.size else (0, 0)
    if least >= 0 and 2**16 <= most < 2**24 and array.itemsize > 3:
        return array.astype("<u4")[..., None].view(np.uint8)[..., :3]
    for dtype in _UNSIGNED:
        if np.dtype(dtype).itemsize < array.itemsize and least >= 0 and most <= np.iinfo(dtype).max:
            return array.astype(dtype)
    return array


def _narrow_floats(array: Array) -> Array:
    bits = array.view(np.uint32)
    used = int(np.bitwise_or.reduce(bits, axis=None))
    if not used & 0xFFFF:
        return (bits >> 16).astype(np.uint16)
    if not used & 0x1FFF:  # a float16's mantissa; its range is smaller, too
        with np.errstate(over="ignore"):
            half = array.astype(np.float16)
        if np.array_equal(half.astype(np.float32).view(np.uint32), bits):
            return half
    return array
