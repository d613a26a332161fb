"""Confidence intervals of what is counted over tokens: those of one prompt are alike, and prompts are the sample."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pytest_quantcheck.analyses.resampling import Floats, Interval

Lengths = NDArray[np.int64]


def mean_by_prompt(values: Floats, lengths: Lengths) -> Floats:
    """Make a value for each prompt; their mean is that of tokens.

    Its spread over prompts gives the error of that mean. The mean over tokens is a ratio: sums of prompts by numbers of
    tokens. Linearised (Cochran, Sampling Techniques, 1977, chapter 6) each prompt's part in it is its excess over what
    its number of tokens would give.

    Args:
        values: (t,) of each token, prompt by prompt.
        lengths: (n,) tokens of each prompt, at least one.

    Returns:
        (n,) float64; their mean is that of `values`.

    Example:
        >>> mean_by_prompt(np.array([1.0, 4.0, 4.0]), np.array([2, 1])).tolist()
        [2.3333333333333335, 3.6666666666666665]
    """
    sums = _sums(values, lengths)
    mean = sums.sum() / lengths.sum()
    return np.asarray(mean + (sums - mean * lengths) / lengths.mean())


def clustered_share(hits: NDArray[np.bool_], lengths: Lengths, *, confidence: float = 0.95) -> Interval:
    """Estimate the interval of a share of tokens.

    The exact binomial interval for as many independent tokens as have the same standard error (Korn and Graubard,
    Survey Methodology 24, 1998). There are never more of them than tokens; where all tokens agree, and no error can be
    estimated, each prompt counts once.

    Args:
        hits: (t,) of each token, prompt by prompt.
        lengths: (n,) tokens of each prompt, at least one; two prompts or more.
        confidence: coverage, in (0, 1).

    Example:
        >>> interval = clustered_share(np.ones(640, dtype=bool), np.full(64, 10))
        >>> round(interval.low, 3), interval.high
        (0.944, 1.0)
    """
    share, alike = _share_and_size(hits, lengths, confidence)
    return _exact(share * alike, alike, confidence)


def clustered_quantile(
    values: Floats, lengths: Lengths, probability: float, *, confidence: float = 0.95
) -> tuple[float, Interval]:
    """Estimate a quantile of the values of tokens, and its interval.

    The interval is that of the share of tokens up to the quantile, read off the sorted values (Woodruff, JASA 47,
    1952). Its upper end is infinite where even the largest value may be below the quantile; of equal values it has no
    width.

    Args:
        values: (t,) of each token, prompt by prompt.
        lengths: (n,) tokens of each prompt, at least one; two prompts or more.
        probability: of the quantile, in (0, 1).
        confidence: coverage, in (0, 1).

    Returns:
        The smallest value that at least this share of tokens does not exceed, and its interval.

    Example:
        >>> value, interval = clustered_quantile(np.arange(100.0), np.full(50, 2), 0.5)
        >>> value, interval.low, interval.high
        (49.0, 35.0, 65.0)
    """
    ordered = np.sort(values)
    value = float(ordered[_rank(probability, len(values))])
    if ordered[0] == ordered[-1]:
        return value, Interval(value, value)
    _, alike = _share_and_size(values <= value, lengths, confidence)
    shares = _exact(probability * alike, alike, confidence)
    above = math.ceil(shares.high * len(values))
    high = float(ordered[above]) if above < len(values) else math.inf
    return value, Interval(float(ordered[_rank(shares.low, len(values))]), high)


def _share_and_size(hits: NDArray[np.bool_], lengths: Lengths, confidence: float) -> tuple[float, float]:
    """Find a share, and how many independent tokens have its standard error."""
    if len(lengths) < 2:
        raise ValueError(f"Expected two prompts or more, got {len(lengths)}.")
    share, n = float(hits.mean()), len(lengths)
    excess = _sums(hits, lengths) - share * lengths
    variance = n / (n - 1) * float(excess @ excess) / float(lengths.sum()) ** 2
    if variance == 0:
        return share, float(n)
    side = (1 + confidence) / 2
    few = (stats.norm.ppf(side) / stats.t.ppf(side, n - 1)) ** 2  # the error is itself estimated from n prompts
    return share, min(share * (1 - share) / variance * few, float(len(hits)))


def _exact(count: float, n: float, confidence: float) -> Interval:
    """Make the binomial interval of Clopper and Pearson, of any positive number."""
    tail = (1 - confidence) / 2
    low = 0.0 if count <= 0 else float(stats.beta.ppf(tail, count, n - count + 1))
    high = 1.0 if count >= n else float(stats.beta.ppf(1 - tail, count + 1, n - count))
    return Interval(low, high)


def _sums(values: NDArray[np.float64] | NDArray[np.bool_], lengths: Lengths) -> Floats:
    """Add up the values of each prompt's tokens."""
    starts = np.cumsum(lengths) - lengths
    return np.asarray(np.add.reduceat(values.astype(np.float64), starts))


def _rank(probability: float, n: int) -> int:
    """Find the place of a quantile among n sorted values."""
    return max(math.ceil(round(probability * n, 9)) - 1, 0)
