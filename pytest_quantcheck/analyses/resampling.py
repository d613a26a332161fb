"""Confidence intervals: paired bootstrap over prompts, jackknife over groups of prompts."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]
Counts = NDArray[np.float32]

_ENTRIES = 2**20
"""Multiplicities made at a time: 4 MiB, so that a chunk stays in cache and memory does not grow with the draws."""


@dataclass(frozen=True)
class Interval:
    """A confidence interval, `low` <= `high`."""

    low: float
    high: float


def paired_bootstrap(
    statistic: Callable[[Counts], Floats], n: int, *, draws: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Return the percentile bootstrap interval of a signed statistic of two models on the same n prompts.

    Both models are read with the same draw of prompts, so what they have in common cancels.

    Args:
        statistic: maps multiplicities (chunk, n) float32 to the statistic of each draw, (chunk,) float64. The mean of
            per-prompt values is `lambda counts: counts @ values / n`.
        n: number of prompts.
        draws: number of bootstrap draws.
        confidence: coverage, in (0, 1).
        seed: of the draws; the same seed gives the same draws.

    Raises:
        ValueError: confidence outside (0, 1), or a statistic that is not finite for some draw.

    Example:
        >>> change = np.array([0.0, 1.0, 0.0, 1.0])
        >>> paired_bootstrap(lambda counts: counts @ change / 4, 4, seed=1)
        Interval(low=0.0, high=1.0)
    """
    _check_confidence(confidence)
    values = np.concatenate([statistic(counts) for counts in bootstrap_counts(n, draws, seed)])
    if not np.all(np.isfinite(values)):
        raise ValueError(f"Expected a finite statistic for every draw, got {values[~np.isfinite(values)][0]}.")
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def bootstrap_counts(n: int, draws: int, seed: int, chunk: int | None = None) -> Iterator[Counts]:
    """Yield how often each of n prompts is in each draw, (chunk, n) float32, until all draws are made.

    The draws depend on `seed` alone, not on `chunk`, which only bounds memory.
    """
    if n < 1 or draws < 1:
        raise ValueError(f"Expected at least one prompt and one draw, got {n} prompts and {draws} draws.")
    chunk = chunk or max(1, _ENTRIES // n)
    generator = np.random.Generator(np.random.PCG64(seed))
    for start in range(0, draws, chunk):
        drawn = generator.integers(0, n, size=(min(chunk, draws - start), n))
        counts = np.empty(drawn.shape, dtype=np.float32)
        for draw, prompts in zip(counts, drawn, strict=True):
            draw[:] = np.bincount(prompts, minlength=n)
        yield counts


def fold(low: float, high: float) -> Interval:
    """Return the interval of abs(x) for x in [low, high]; it starts at 0 if 0 is inside.

    Example:
        >>> fold(-0.3, 0.1), fold(-0.3, -0.1)
        (Interval(low=0.0, high=0.3), Interval(low=0.1, high=0.3))
    """
    near, far = sorted((abs(low), abs(high)))
    return Interval(0.0 if low <= 0 <= high else near, far)


def grouped_jackknife(
    leave_one_out: ArrayLike, value: float, *, confidence: float = 0.95, sizes: ArrayLike | None = None
) -> Interval:
    """Return a Student interval around `value` from its values with each group of prompts left out.

    Groups of equal size g: se^2 = (g - 1) / g * sum((theta_i - mean)^2). For unequal sizes the delete-m_j
    jackknife of Busing, Meijer and van der Leeden (Statistics and Computing 9, 1999), which is the same thing
    when sizes are equal. Empty groups say nothing and are dropped.

    Args:
        leave_one_out: (g,) the statistic of all prompts but those of group i.
        value: the statistic of all prompts; the centre of the interval.
        confidence: coverage, in (0, 1); Student's t has one degree of freedom less than there are groups.
        sizes: (g,) prompts, or tokens, of each group; equal if not given.

    Raises:
        ValueError: fewer than two groups, values that are not finite, or shapes that differ.

    Example:
        >>> interval = grouped_jackknife([1.5, 2.5], 2.0, confidence=0.5)
        >>> round(interval.low, 6), round(interval.high, 6)
        (1.5, 2.5)
    """
    _check_confidence(confidence)
    left_out, size = _groups(leave_one_out, sizes)
    if not (math.isfinite(value) and np.all(np.isfinite(left_out))):
        raise ValueError("Expected finite values with each group left out; a group holds too much of the data.")
    share = size.sum() / size
    pseudo = share * value - (share - 1) * left_out
    centre = len(size) * value - np.sum((1 - 1 / share) * left_out)
    variance = np.mean((pseudo - centre) ** 2 / (share - 1))
    half = float(stats.t.ppf((1 + confidence) / 2, len(size) - 1) * np.sqrt(variance))
    return Interval(value - half, value + half)


def _groups(leave_one_out: ArrayLike, sizes: ArrayLike | None) -> tuple[Floats, Floats]:
    values = np.asarray(leave_one_out, dtype=np.float64)
    size = np.ones(len(values)) if sizes is None else np.asarray(sizes, dtype=np.float64)
    if values.ndim != 1 or values.shape != size.shape:
        raise ValueError(f"Expected one value and one size for each group, got shapes {values.shape} and {size.shape}.")
    if np.count_nonzero(size > 0) < 2 or np.any(size < 0):
        raise ValueError(f"Expected at least two groups with prompts, got sizes {size.tolist()}; use more prompts.")
    return values[size > 0], size[size > 0]


def prompts_to_settle(value: float, low: float, high: float, limit: float, n: int) -> int | None:
    """Return about how many prompts would move the interval off the limit.

    The half width on the side that faces the limit is taken to shrink with the square root of the number of
    prompts. An interval that is off the limit already needs no more than its n prompts; None means that no
    number of prompts settles it, as the value is the limit or next to it.

    Example:
        >>> prompts_to_settle(0.03, 0.01, 0.05, limit=0.04, n=100)
        400
    """
    if value == limit:
        return None
    half = high - value if limit > value else value - low
    ratio = half / (limit - value)
    needed = n * ratio * ratio
    return max(n, math.ceil(round(needed, 6))) if math.isfinite(needed) else None


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"Expected a confidence between 0 and 1, such as 0.95, got {confidence}.")
