"""Redundancy: Pearson correlations between neurons, and what changes between two models, pair by pair."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytest_quantcheck.analyses.correlation_sums import TILE, Floats, Matrix, check_width, mirror
from pytest_quantcheck.records import Correlations

Histogram = NDArray[np.int64]

HISTOGRAM_BINS = 10
"""Bins of abs(r), as in the paper's Figure 4: [0, 0.1), ..., [0.9, 1.0]."""

_EDGES = np.arange(1, HISTOGRAM_BINS, dtype=np.float32) / np.float32(HISTOGRAM_BINS)


def defined(correlations: Correlations) -> NDArray[np.bool_]:
    """Find the neurons that have correlations, (d,) bool: those that are not constant.

    A neuron is constant when its standard deviation is not above float32's rounding of its mean (2^-23 of it), or
    when its summed squares do not reach float32's smallest normal number.
    """
    floating = np.finfo(np.float32)
    squares = np.diagonal(correlations.comoment).astype(np.float64)
    rounding = correlations.count * (float(floating.eps) * correlations.mean) ** 2
    return np.asarray((squares > rounding) & (squares >= float(floating.tiny)))


def correlation(correlations: Correlations) -> tuple[Matrix, NDArray[np.bool_]]:
    """Correlate every pair by Pearson's r; say which neurons are `defined`.

    r is (d, d) float32 in [-1, 1], the mask (d,) bool. Rows and columns of constant neurons are 0.
    """
    varying = defined(correlations)
    matrix = np.zeros_like(correlations.comoment)
    for start, tile in _tiles(correlations, varying):
        matrix[start : start + len(tile), start:] = tile
    np.clip(matrix, -1, 1, out=matrix)
    np.fill_diagonal(matrix, varying)
    mirror(matrix)
    return matrix, varying


@dataclass(frozen=True)
class ChangeSummary:
    """The change of correlations between two models.

    `mean`: mean over pairs of abs(r_candidate - r_reference), in [0, 2], None without pairs; `pairs`: number of
    pairs i < j of neurons that vary in both models; `excluded`: neurons constant in at least one. `spread`: standard
    deviation over neurons of the mean change of their own pairs, None for fewer than three neurons.
    """

    mean: float | None
    spread: float | None
    pairs: int
    excluded: int


def correlation_change(reference: Correlations, candidate: Correlations) -> ChangeSummary:
    """Average the change of correlations over pairs of neurons.

    It is that of abs(r_candidate - r_reference) over i < j. Memory beside the records is that of a few rows.

    Raises:
        ValueError: records of different width.
    """
    check_width([reference, candidate])
    both = defined(reference) & defined(candidate)
    moved = _change_sums(reference, candidate, both)[both]
    pairs, others = _n_pairs(both), len(moved) - 1
    return ChangeSummary(
        mean=float(moved.sum()) / 2 / pairs if pairs else None,
        spread=float(np.std(moved / others, ddof=1)) if others > 1 else None,
        pairs=pairs,
        excluded=int(np.count_nonzero(~both)),
    )


def sampling_error(change: ChangeSummary, taken: int, neurons: int) -> float:
    """Estimate the standard error of `change.mean` due to sampling the neurons.

    The mean over all pairs within a sample without replacement is a U-statistic (Hoeffding 1948): unbiased for the
    mean over all pairs, with variance 4 / n * spread^2 * (1 - taken / neurons) to first order, n being the neurons
    that vary. A spread from the sample itself is a little too large, by what single pairs scatter: so is the error.

    Args:
        change: what was found for the neurons taken.
        taken: number of neurons taken, constant ones included.
        neurons: number of neurons they were taken from.
    """
    if taken == neurons:
        return 0.0
    if change.spread is None:  # nothing to go by: the whole range
        return 2.0
    return 2 * change.spread * math.sqrt((1 - taken / neurons) / (taken - change.excluded))


def correlation_histogram(correlations: Correlations) -> Histogram:
    """Count the pairs with abs(r) in each bin: (10,) int64, i < j; constant neurons are left out."""
    varying = defined(correlations)
    at_least = np.zeros(HISTOGRAM_BINS + 1, dtype=np.int64)
    at_least[0] = _n_pairs(varying)
    for _, tile in _tiles(correlations, varying):
        size = _absolute(tile)
        at_least[1:HISTOGRAM_BINS] += [np.count_nonzero(size >= edge) for edge in _EDGES]
    return -np.diff(at_least)


def tail_mass(histogram: Histogram, at: float) -> float:
    """Compute the share of pairs with abs(r) >= `at`: one of 0.0, 0.1, ..., 0.9.

    Example:
        >>> tail_mass(np.array([6, 0, 0, 0, 0, 0, 0, 0, 1, 1]), 0.8)
        0.25
    """
    first = round(at * HISTOGRAM_BINS)
    if not (0 <= first < HISTOGRAM_BINS and np.isclose(first, at * HISTOGRAM_BINS)):
        raise ValueError(f"Expected one of the bin edges 0.0, 0.1, ..., 0.9, got {at}.")
    return float(_shares(histogram)[first:].sum())


def wasserstein(reference: Histogram, candidate: Histogram) -> float:
    """Measure the 1-Wasserstein distance between two histograms of abs(r).

    The mass of a bin is at its centre, so that the distance lies in [0, 0.9].

    Example:
        >>> round(wasserstein(np.eye(10)[0], np.eye(10)[3]), 12)
        0.3
    """
    return float(np.abs(np.cumsum(_shares(candidate) - _shares(reference))).sum() / HISTOGRAM_BINS)


def _tiles(correlations: Correlations, neurons: NDArray[np.bool_]) -> Iterator[tuple[int, Matrix]]:
    """Yield r in tiles of some rows, each with its first row.

    A tile begins at the diagonal: r for i < j, else 0. Pairs outside of `neurons` are 0 as well.
    """
    scale = np.zeros(len(neurons), dtype=np.float32)
    scale[neurons] = np.diagonal(correlations.comoment)[neurons].astype(np.float64) ** -0.5
    for start in range(0, len(neurons), TILE):
        tile = correlations.comoment[start : start + TILE, start:] * scale[start : start + TILE, None]
        tile *= scale[start:]
        tile[:, : len(tile)] = np.triu(tile[:, : len(tile)], 1)
        yield start, tile


def _change_sums(reference: Correlations, candidate: Correlations, neurons: NDArray[np.bool_]) -> Floats:
    """Sum abs(r_candidate - r_reference) over each neuron's pairs."""
    moved = np.zeros(len(neurons))
    for (start, before), (_, after) in zip(_tiles(reference, neurons), _tiles(candidate, neurons), strict=True):
        change = _absolute(np.subtract(after, before, out=after))
        moved[start : start + len(change)] += change.sum(axis=1)
        moved[start:] += change.sum(axis=0)
    return moved


def _absolute(tile: Matrix) -> Matrix:
    return np.abs(tile, out=tile)


def _n_pairs(neurons: NDArray[np.bool_]) -> int:
    n = int(np.count_nonzero(neurons))
    return n * (n - 1) // 2


def _shares(histogram: Histogram) -> Floats:
    total = histogram.sum()
    if histogram.shape != (HISTOGRAM_BINS,) or total <= 0:
        raise ValueError(f"Expected counts of at least one pair in {HISTOGRAM_BINS} bins, got {histogram.tolist()}.")
    return np.asarray(histogram / total)
