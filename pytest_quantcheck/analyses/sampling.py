"""Seeded samples of a layer's neurons."""

import numpy as np
from numpy.typing import NDArray


def seeded_neurons(width: int, n: int, seed: int) -> NDArray[np.int64]:
    """Draw a seeded sample of n neurons, ascending; a smaller one of the same seed is part of it."""
    chosen = np.random.default_rng(seed).permutation(width)[:n]
    return np.sort(chosen).astype(np.int64)
