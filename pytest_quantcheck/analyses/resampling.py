"""Confidence intervals: of shares, by resampling prompts, by leaving out groups of prompts.

Which metric takes which, and how often each contains the true value: docs/evidence/coverage.md.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from pytest_quantcheck.analyses.draws import Counts, bootstrap_counts, half_samples, random_weights

Floats = NDArray[np.float64]

_LEAST_SPREAD = 1 / 3
"""Least spread of a draw, in spreads of all prompts: without the few largest values a draw could have almost none."""

_POWER = 0.8
"""Probability that the number of prompts that is named settles a verdict, if the estimate is right."""


@dataclass(frozen=True)
class Interval:
    """A confidence interval, `low` <= `high`."""

    low: float
    high: float


def share(count: int, n: int, *, confidence: float = 0.95) -> Interval:
    """Estimate the exact binomial interval of a share (Clopper and Pearson 1934).

    Its coverage is never less than it claims. It has a width at 0 and at n of n, where resampling the prompts has none.

    Example:
        >>> interval = share(0, 64)
        >>> interval.low, round(interval.high, 3)
        (0.0, 0.056)
    """
    _check_confidence(confidence)
    limits = stats.binomtest(count, n).proportion_ci(confidence, method="exact")
    return Interval(float(limits.low), float(limits.high))


def paired_shares(lost: int, won: int, n: int, *, confidence: float = 0.95) -> Interval:
    """Estimate the interval of a paired difference, (lost - won) / n.

    The adjusted Wald interval of Bonett and Price (Journal of Educational and Behavioral Statistics 37, 2012): one
    prompt more that was lost and one that was won keep its width where there are none.

    Args:
        lost: prompts that only the first model has right.
        won: prompts that only the second has right.
        n: all prompts.
        confidence: coverage, in (0, 1).

    Example:
        >>> interval = paired_shares(0, 0, 64)
        >>> round(interval.low, 3), round(interval.high, 3)
        (-0.042, 0.042)
    """
    _check_confidence(confidence)
    more, less = (lost + 1) / (n + 2), (won + 1) / (n + 2)
    half = two_sided_quantile(confidence) * math.sqrt((more + less - (more - less) ** 2) / (n + 2))
    return Interval(max(-1.0, more - less - half), min(1.0, more - less + half))


def studentised_bootstrap(values: ArrayLike, *, draws: int = 2000, confidence: float = 0.95, seed: int = 0) -> Interval:
    """Bootstrap the studentised interval (bootstrap-t) of the mean of per-prompt values.

    Draws say how the mean errs in standard errors, so that the interval is longer on the side of a heavy tail (Efron
    and Tibshirani 1993, chapter 12). For differences of two models on the same prompts it is paired.

    Args:
        values: (n,) float64.
        draws: number of bootstrap draws.
        confidence: coverage, in (0, 1).
        seed: of the draws; the same seed gives the same draws.

    Raises:
        ValueError: confidence outside (0, 1), or values that are not finite.

    Example:
        >>> interval = studentised_bootstrap([0.0, 0.1, 0.2, 0.1, 0.9, 0.2], seed=1)
        >>> interval.low < 0.25 < interval.high, interval.high - 0.25 > 0.25 - interval.low
        (True, True)
    """
    _check_confidence(confidence)
    x = _finite(values)
    centre, error = float(x.mean()), float(x.std())
    if error == 0:
        return Interval(centre, centre)
    shifted = (x - centre) / error
    ratios = [_studentised_means(counts, shifted) for counts in bootstrap_counts(len(x), draws, seed)]
    low, high = np.quantile(np.concatenate(ratios), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(centre - high * error), float(centre - low * error))


def bounded_mean(
    values: ArrayLike,
    *,
    least: float = 0.0,
    most: float = 1.0,
    draws: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Estimate the interval of the mean of values between `least` and `most`.

    Prompts get random weights. One more prompt is added, with the least value for the lower end and with the most for
    the upper end: values that were not seen may be that low, or that high. For zeros and ones this is the exact
    binomial interval (Gaffke 2005; Phan, Thomas and Learned-Miller, ICML 2021); no case is known in which it covers
    less than it claims.

    Args:
        values: (n,) float64 in [least, most].
        least: smallest possible value.
        most: largest possible value.
        draws: number of weightings.
        confidence: coverage, in (0, 1).
        seed: of the weights.

    Raises:
        ValueError: confidence outside (0, 1), or values out of range.

    Example:
        >>> interval = bounded_mean([1.0] * 64)
        >>> abs(interval.low - 0.025 ** (1 / 64)) < 0.01, interval.high
        (True, 1.0)
    """
    _check_confidence(confidence)
    x = _finite(values)
    if x.min() < least or x.max() > most:
        raise ValueError(f"Expected values from {least} to {most}, got some from {x.min()} to {x.max()}.")
    means, spare = (np.concatenate(part) for part in zip(*_weighted(x, draws, seed), strict=True))
    low = np.quantile(means + spare * least, (1 - confidence) / 2)
    high = np.quantile(means + spare * most, (1 + confidence) / 2)
    return Interval(max(least, float(low)), min(most, float(high)))


def half_sampled(
    statistic: Callable[[Counts], Floats],
    value: float,
    n: int,
    *,
    draws: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Estimate the interval of a signed statistic whose bias depends on n.

    Random halves of the prompts, the same for both models, give the spread of the statistic, and the bias that halving
    adds. Bias that comes from noise falls as 1 / sqrt(n) or faster, so the bias with all prompts is at most
    1 / (sqrt(2) - 1) times what halving adds: the interval is lengthened by that much on that side.

    A bootstrap draw repeats prompts and so adds noise of its own where a statistic takes absolute values of means, as
    calibration error does; a half has each prompt once (Politis and Romano, Annals of Statistics 22, 1994).

    Args:
        statistic: maps multiplicities (chunk, n) float32, n // 2 of a row are 1, to (chunk,) float64.
        value: the statistic of all prompts.
        n: number of prompts, at least 2.
        draws: number of halves.
        confidence: coverage, in (0, 1).
        seed: of the halves.

    Raises:
        ValueError: confidence outside (0, 1), or a statistic that is not finite for some half.

    Example:
        >>> change = np.arange(8.0)
        >>> interval = half_sampled(lambda counts: counts @ change / 4, 3.5, 8)
        >>> interval.low < 3.5 < interval.high
        True
    """
    _check_confidence(confidence)
    drawn = _finite(np.concatenate([statistic(counts) for counts in half_samples(n, draws, seed)]))
    size = n // 2
    bias = (drawn.mean() - value) / (math.sqrt(n / size) - 1)
    half = two_sided_quantile(confidence) * drawn.std() * math.sqrt(size / (n - size))
    return Interval(float(value - max(bias, 0.0) - half), float(value - min(bias, 0.0) + half))


def grouped_jackknife(
    leave_one_out: ArrayLike, value: float, *, confidence: float = 0.95, sizes: ArrayLike | None = None
) -> Interval:
    """Estimate Student's interval around `value` by the jackknife over groups of prompts.

    Groups of equal size g: se^2 = (g - 1) / g * sum((theta_i - mean)^2). For unequal sizes the delete-m_j
    jackknife of Busing, Meijer and van der Leeden (Statistics and Computing 9, 1999), which is the same thing
    when sizes are equal. Empty groups are dropped.

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


def jackknife_bias(leave_one_out: ArrayLike, value: float) -> float:
    """Estimate the bias of `value`, by Quenouille.

    That is (g - 1) * (mean of `leave_one_out` - value). It is right where the bias falls as 1 / n, and half of it where
    it falls as 1 / sqrt(n).
    """
    left_out = _finite(leave_one_out)
    return float((len(left_out) - 1) * (left_out.mean() - value))


def fold(low: float, high: float) -> Interval:
    """Fold [low, high] to the interval of abs(x); it starts at 0 if 0 is inside.

    Example:
        >>> fold(-0.3, 0.1), fold(-0.3, -0.1)
        (Interval(low=0.0, high=0.3), Interval(low=0.1, high=0.3))
    """
    near, far = sorted((abs(low), abs(high)))
    return Interval(0.0 if low <= 0 <= high else near, far)


def prompts_to_settle(
    value: float, low: float, high: float, limit: float, n: int, *, confidence: float = 0.95, floor: float = 0.0
) -> int | None:
    """Estimate how many prompts would settle an inconclusive verdict with probability 0.8.

    A verdict is settled when the interval does not contain the limit. The half width on the side of the limit shrinks
    with the square root of the number of prompts. If it just reached the limit, every second sample would still be
    inconclusive, as the value varies from sample to sample too: so the number is that of a test of power 0.8. The
    estimate itself has an error as well: over all inconclusive samples more than half name a number that settles it,
    unless the true value is within a quarter of the half width of the limit. An interval that does not contain the
    limit needs no more than its n prompts; None means that no number settles it.

    Args:
        value: the estimate.
        low: lower end of its interval.
        high: upper end.
        limit: what it is held against.
        n: prompts it was made from.
        confidence: that of the interval.
        floor: part of the half width, in quadrature, that more prompts do not make narrower.

    Example:
        >>> prompts_to_settle(0.03, 0.01, 0.05, limit=0.04, n=100)
        818
    """
    if low > limit or high < limit:
        return n
    half = high - value if limit > value else value - low
    gap = (limit - value) ** 2 - floor**2
    if gap <= 0:
        return None
    power = 1 + normal_quantile(_POWER) / two_sided_quantile(confidence)
    needed = n * power**2 * max(half**2 - floor**2, 0.0) / gap
    return max(n, math.ceil(round(needed, 6))) if math.isfinite(needed) else None


def normal_quantile(probability: float) -> float:
    """Return the standard normal quantile of a probability in (0, 1)."""
    return float(stats.norm.ppf(probability))


def two_sided_quantile(confidence: float) -> float:
    """Return half the width of a normal interval, in standard errors."""
    return normal_quantile((1 + confidence) / 2)


def _studentised_means(counts: Counts, shifted: Floats) -> Floats:
    """Divide mean by spread of each draw of standardized values."""
    mean, square = (counts @ np.column_stack([shifted, shifted**2]) / len(shifted)).T
    return np.asarray(mean / np.sqrt(np.maximum(square - mean**2, _LEAST_SPREAD**2)))


def _weighted(values: Floats, draws: int, seed: int) -> Iterator[tuple[Floats, Floats]]:
    """Yield means under random weights, and one more prompt's weight: (chunk,) each."""
    for weights in random_weights(len(values) + 1, draws, seed):
        yield weights[:, 1:] @ values, weights[:, 0]


def _groups(leave_one_out: ArrayLike, sizes: ArrayLike | None) -> tuple[Floats, Floats]:
    values = np.asarray(leave_one_out, dtype=np.float64)
    size = np.ones(len(values)) if sizes is None else np.asarray(sizes, dtype=np.float64)
    if values.ndim != 1 or values.shape != size.shape:
        raise ValueError(f"Expected one value and one size for each group, got shapes {values.shape} and {size.shape}.")
    if np.count_nonzero(size > 0) < 2 or np.any(size < 0):
        raise ValueError(f"Expected at least two groups with prompts, got sizes {size.tolist()}; use more prompts.")
    return values[size > 0], size[size > 0]


def _finite(values: ArrayLike) -> Floats:
    numbers = np.asarray(values, dtype=np.float64)
    if not np.all(np.isfinite(numbers)):
        raise ValueError(f"Expected finite values for every prompt or draw, got {numbers[~np.isfinite(numbers)][0]}.")
    return numbers


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"Expected a confidence between 0 and 1, such as 0.95, got {confidence}.")
