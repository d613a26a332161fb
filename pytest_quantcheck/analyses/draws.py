"""Random draws by seed: of prompts (with replacement, halves, weights), and of neurons."""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.float32]

_ENTRIES = 2**20
"""Multiplicities made at a time: 4 MiB, so that a chunk stays in cache and memory does not grow with the draws."""


def bootstrap_counts(n: int, draws: int, seed: int, chunk: int | None = None) -> Iterator[Counts]:
    """Yield how often each of n prompts occurs in each bootstrap draw.

    Chunks are (chunk, n) float32, until all draws are made. The draws depend on `seed` alone, not on `chunk`, which
    only bounds memory.

    Raises:
        ValueError: no prompts, or no draws.
    """
    for random, rows in _chunks(n, draws, seed, chunk):
        counts = np.empty((rows, n), dtype=np.float32)
        for draw, prompts in zip(counts, random.integers(0, n, size=(rows, n)), strict=True):
            draw[:] = np.bincount(prompts, minlength=n)
        yield counts


def half_samples(n: int, draws: int, seed: int, chunk: int | None = None) -> Iterator[Counts]:
    """Yield which half of n prompts is drawn: (chunk, n) float32 of 0 and 1; see `bootstrap_counts`."""
    for random, rows in _chunks(n, draws, seed, chunk):
        counts = np.empty((rows, n), dtype=np.float32)
        for draw in counts:
            draw[:] = _half(random, n)
        yield counts


def random_weights(n: int, draws: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Yield weights of n prompts: (chunk, n) float64, uniform among all that add up to 1; see `bootstrap_counts`."""
    for random, rows in _chunks(n, draws, seed, None):
        weights = random.standard_exponential((rows, n))
        weights /= weights.sum(axis=1, keepdims=True)
        yield weights


def seeded_neurons(width: int, n: int, seed: int) -> NDArray[np.int64]:
    """Draw a seeded sample of n neurons, ascending; a smaller one of the same seed is part of it."""
    chosen = np.random.default_rng(seed).permutation(width)[:n]
    return np.sort(chosen).astype(np.int64)


def neurons_of_each(layer: int, experts: int) -> int:
    """Count the neurons to correlate in each expert.

    `layer` is how many an undivided layer has room for. Pairs are made within experts alone, so that all pairs together
    take the room of the layer's.
    """
    return max(2, math.isqrt(layer * layer // experts))


def _half(random: np.random.Generator, n: int) -> NDArray[np.uint8]:
    """Draw a random half of n prompts: a fair coin for each, then the surplus is flipped; faster than a shuffle."""
    half = np.unpackbits(random.integers(0, 256, -(-n // 8), dtype=np.uint8), count=n)
    surplus = int(half.sum()) - n // 2
    taken = int(surplus > 0)
    half[random.choice(np.flatnonzero(half == taken), abs(surplus), replace=False, shuffle=False)] = 1 - taken
    return half


def _chunks(n: int, draws: int, seed: int, chunk: int | None) -> Iterator[tuple[np.random.Generator, int]]:
    if n < 1 or draws < 1:
        raise ValueError(f"Expected at least one prompt and one draw, got {n} prompts and {draws} draws.")
    chunk = chunk or max(1, _ENTRIES // n)
    random = np.random.Generator(np.random.PCG64(seed))
    yield from ((random, min(chunk, draws - start)) for start in range(0, draws, chunk))
