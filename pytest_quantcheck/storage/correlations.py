"""Correlation sums on disk: half of the symmetric matrix, exact or rounded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_quantcheck.analyses.triangles import pack_triangle, triangle_size, unpack_triangle
from pytest_quantcheck.records import Correlations

Matrix = NDArray[np.float32]
Floats = NDArray[np.float64]

STEPS = np.iinfo(np.int16).max
"""Steps from r = 0 to r = 1 in a baseline: r is rounded by 1.53e-5 at most."""


def exact_arrays(sums: Correlations) -> dict[str, NDArray[Any]]:
    """Make the arrays that hold correlation sums exactly.

    They are `mean` (d,) float64 and `comoment` (d * (d + 1) / 2,) float32, the upper triangle row by row.

    Raises:
        ValueError: the comoment is not symmetric, bit for bit.
    """
    _check_symmetric(sums.comoment)
    return {"mean": sums.mean, "comoment": pack_triangle(sums.comoment)}


def rounded_arrays(sums: Correlations) -> dict[str, NDArray[Any]]:
    """Round correlation sums to the arrays of a baseline.

    They are `mean` (d,) float64; `squares` (d,) float32, the comoment's diagonal, exact, so that the same neurons are
    constant; and `r` (d * (d - 1) / 2,) int16, Pearson's r of each pair i < j, row by row, times 32,767. Rounding
    again changes nothing.

    Raises:
        ValueError: the comoment is not symmetric, bit for bit, or not finite.
    """
    _check_symmetric(sums.comoment)
    if not np.isfinite(sums.comoment).all():
        raise ValueError("expected finite correlation sums, got infinity")
    squares = np.diagonal(sums.comoment).copy()
    scale = _scale(squares)
    inverse = np.divide(STEPS, scale, out=np.zeros_like(scale), where=scale > 0)
    half = np.empty(triangle_size(len(scale) - 1), dtype=np.int16)
    for row, places in _triangle_rows(len(scale)):
        r = sums.comoment[row, row + 1 :] * inverse[row + 1 :]
        r *= inverse[row] / STEPS
        half[places] = np.clip(np.rint(r, out=r), -STEPS, STEPS, out=r)
    return {"mean": sums.mean, "squares": squares, "r": half}


def from_exact(count: int, mean: Floats, comoment: NDArray[np.float32]) -> Correlations:
    """Restore the sums from what `exact_arrays` returned."""
    return Correlations(count, mean, unpack_triangle(comoment, len(mean)))


def from_rounded(count: int, mean: Floats, squares: NDArray[np.float32], r: NDArray[np.int16]) -> Correlations:
    """Restore the sums from what `rounded_arrays` returned, up to rounding."""
    scale = _scale(squares)
    matrix = np.empty((len(mean), len(mean)), dtype=np.float32)
    for row, places in _triangle_rows(len(mean)):
        matrix[row, row + 1 :] = r[places] * (scale[row] / STEPS) * scale[row + 1 :]
        matrix[row + 1 :, row] = matrix[row, row + 1 :]
    np.fill_diagonal(matrix, squares)
    return Correlations(count, mean, matrix)


def _triangle_rows(width: int) -> Iterator[tuple[int, slice]]:
    """Yield each row of a triangle without diagonal, and its place."""
    start = 0
    for row in range(width):
        stop = start + width - row - 1
        yield row, slice(start, stop)
        start = stop


def _scale(squares: NDArray[np.float32]) -> Floats:
    """Take the square roots of the summed squares; 0, as r then, where these are subnormal in float32."""
    normal = squares >= np.finfo(np.float32).tiny
    return np.sqrt(squares, out=np.zeros(len(squares)), where=normal)


def _check_symmetric(comoment: Matrix) -> None:
    bits = comoment.view(np.uint32)
    unlike = np.argwhere(bits != bits.T)
    if len(unlike):
        i, j = unlike[0]
        raise ValueError(
            f"expected a symmetric comoment, got {comoment[i, j]!r} at ({i}, {j}) and {comoment[j, i]!r} at ({j}, {i})"
        )
