"""Seeded samples of a layer's neurons."""

import numpy as np
from numpy.typing import NDArray


def seeded_neurons(width: int, n: int, seed: int) -> NDArray[np.int64]:
    """Return a seeded random sample of n of a layer's neurons, ascending.

    A smaller sample of the same seed is part of it.
    """
    chosen = np.random.default_rng(seed).permutation(width)[:n]
    return np.sort(chosen).astype(np.int64)
