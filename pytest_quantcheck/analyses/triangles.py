"""Symmetric matrices as their upper triangles: half of the entries, row by row."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

_Number = TypeVar("_Number", bound=np.generic)


def triangle_size(width: int) -> int:
    """Count the pairs i <= j of `width` neurons."""
    return width * (width + 1) // 2


def pack_triangle(matrix: NDArray[_Number]) -> NDArray[_Number]:
    """Pack the upper triangle with its diagonal, row by row. From (d, d) to (d * (d + 1) / 2,)."""
    return np.concatenate([matrix.reshape(-1)[:0], *(row[i:] for i, row in enumerate(matrix))])


def unpack_triangle(triangle: NDArray[_Number], width: int) -> NDArray[_Number]:
    """Restore the symmetric matrix (width, width) that has this upper triangle."""
    matrix = np.empty((width, width), dtype=triangle.dtype)
    start = 0
    for i in range(width):
        stop = start + width - i
        matrix[i, i:] = matrix[i:, i] = triangle[start:stop]
        start = stop
    return matrix
