"""Samples: which of a layer's neurons are looked at where not all can be."""

import numpy as np
from numpy.typing import NDArray


def seeded_neurons(width: int, n: int, seed: int) -> NDArray[np.int64]:
    """A seeded random sample of n of a layer's neurons, ascending; fewer from the same seed are part of it."""
    chosen = np.random.default_rng(seed).permutation(width)[:n]
    return np.sort(chosen).astype(np.int64)
