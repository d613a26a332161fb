"""Adaptive calibration error: how far confidence is from accuracy, in bins of equal count."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.float32]

_BLOCK = 64
"""Prompts in one block of a running sum: smaller blocks need more sums, larger ones more work for each look-up."""


@dataclass(frozen=True, eq=False)
class ReliabilityBins:
    """Bins of a reliability diagram, least confident first; each field has shape (bins,).

    `count` int64: prompts in the bin; `accuracy` and `confidence` float64: their means, in [0, 1].
    """

    count: NDArray[np.int64]
    accuracy: Floats
    confidence: Floats


def adaptive_calibration_error(confidence: ArrayLike, correct: ArrayLike, *, bins: int = 10) -> float:
    """Measure the adaptive calibration error (ACE) of one set of answers.

    Prompts are sorted by confidence and cut into bins of equal count (sizes differ by at most one, larger bins
    first); the error is the unweighted mean over bins of abs(accuracy - mean confidence).

    Prompts of equal confidence share their mean correctness, so the result never depends on the order of the
    prompts. The paper (arXiv 2508.16785) lets the sort decide which of them fall on which side of a bin edge;
    without such ties both are the same.

    Args:
        confidence: (n,), in [0, 1]: probability of the answer given.
        correct: (n,), bool or 0 and 1.
        bins: number of bins, at most n.

    Returns:
        A float in [0, 1]; 0 is perfectly calibrated.

    Raises:
        ValueError: fewer prompts than bins, or confidences that are not probabilities.

    Example:
        >>> round(adaptive_calibration_error([0.9, 0.6, 0.8, 0.7], [1, 0, 1, 1], bins=2), 12)
        0.15
    """
    table = reliability_bins(confidence, correct, bins=bins)
    return float(np.abs(table.accuracy - table.confidence).mean())


def reliability_bins(confidence: ArrayLike, correct: ArrayLike, *, bins: int = 10) -> ReliabilityBins:
    """Average confidence and accuracy in bins of equal count. Arguments as in ACE."""
    confidence, correct = _checked(confidence, correct, bins)
    order = np.argsort(confidence, kind="stable")
    level, group = np.unique(confidence[order], return_inverse=True)
    shared = np.bincount(group, weights=correct[order]) / np.bincount(group)
    edges = _edges(len(order), bins)
    count = np.diff(edges)
    accuracy = np.add.reduceat(shared[group], edges[:-1]) / count
    return ReliabilityBins(count, accuracy, np.add.reduceat(level[group], edges[:-1]) / count)


def resampled_ace(confidence: ArrayLike, correct: ArrayLike, counts: ArrayLike, *, bins: int = 10) -> Floats:
    """Measure the ACE of every bootstrap draw.

    It takes O(n) for each draw, without sorting again. A draw is a vector of multiplicities. Along the prompts sorted
    once, its cumulative count says where the bin edges fall, and the cumulative sum of (correct - confidence), read at
    those edges, gives every bin's gap.

    Args:
        confidence: (n,), in [0, 1].
        correct: (n,), bool or 0 and 1.
        counts: (draws, n), how often each prompt is in each draw; every row has the same sum, at least `bins`.
        bins: number of bins.

    Returns:
        (draws,) float64: what `adaptive_calibration_error` gives for the prompts repeated so often.

    Raises:
        ValueError: as in `adaptive_calibration_error`, or draws of different sizes.

    Example:
        >>> resampled_ace([0.9, 0.6], [1, 0], np.array([[1, 1], [2, 0]]), bins=1).round(3).tolist()
        [0.25, 0.1]
    """
    confidence, correct = _checked(confidence, correct, 1)
    repeats = _checked_draws(counts, len(confidence), bins)
    order = np.argsort(confidence, kind="stable")
    ordered = confidence[order]
    draws, gap = _in_blocks(repeats, order), _in_blocks(correct - confidence, order)
    seen, gaps = _RunningSum(draws, np.ones_like(gap)), _RunningSum(draws, gap)
    edges = _edges(int(seen.before[0, -1]), bins)
    at = seen.first_reaching(edges[1:])
    tied = [np.searchsorted(ordered, ordered[at], side) for side in ("left", "right")]
    (seen_from, seen_to), (gaps_from, gaps_to) = map(seen.until, tied), map(gaps.until, tied)
    reached = gaps_from + (gaps_to - gaps_from) * (edges[1:] - seen_from) / (seen_to - seen_from)
    return np.asarray(np.abs(np.diff(reached, axis=1, prepend=0.0) / np.diff(edges)).mean(axis=1))


class _RunningSum:
    """Running sums of draws times worth, stored once for each block.

    `draws` is (draws, blocks, block), `worth` (blocks, block). Whole blocks are summed at memory speed, and only the
    few blocks that are asked for are summed prompt by prompt; a plain cumulative sum takes ten times as long. `before`
    (draws, blocks + 1) is the sum of all earlier blocks.
    """

    def __init__(self, draws: NDArray[Any], worth: Floats) -> None:
        self.draws, self.worth = draws, worth
        self.before = np.pad(np.cumsum(np.einsum("dbk,bk->db", draws, worth), axis=1), [(0, 0), (1, 0)])

    def until(self, position: NDArray[np.int64]) -> Floats:
        """Sum all entries before each position (draws, positions)."""
        block, offset = np.divmod(position, _BLOCK)
        earlier = np.arange(_BLOCK) < offset[..., None]
        return np.asarray(self._of(self.before, block) + np.sum(self._inside(block), axis=-1, where=earlier))

    def first_reaching(self, target: NDArray[np.int64]) -> NDArray[np.int64]:
        """Find the first position at which the sum reaches each target; the sum includes that position."""
        block = np.count_nonzero(self.before[:, None, 1:] < target[:, None], axis=-1)
        inside = self._of(self.before, block)[..., None] + np.cumsum(self._inside(block), axis=-1)
        return np.asarray(block * _BLOCK + np.count_nonzero(inside < target[:, None], axis=-1))

    def _inside(self, block: NDArray[np.int64]) -> Floats:
        return self._of(self.draws, block) * self.worth[block]

    def _of(self, values: NDArray[Any], block: NDArray[np.int64]) -> Floats:
        return np.asarray(values[np.arange(len(values))[:, None], block])


def _in_blocks(values: NDArray[Any], order: NDArray[np.intp]) -> NDArray[Any]:
    """Sort the last axis and split it into blocks. At least one zero is added as padding."""
    missing = _BLOCK - len(order) % _BLOCK
    ordered = np.take(values, np.pad(order, (0, missing)), axis=-1)
    ordered[..., len(order) :] = 0
    return ordered.reshape(*values.shape[:-1], -1, _BLOCK)


def _edges(n: int, bins: int) -> NDArray[np.int64]:
    sizes = np.full(bins, n // bins, dtype=np.int64)
    sizes[: n % bins] += 1
    return np.concatenate([[0], np.cumsum(sizes)])


def _checked_draws(counts: ArrayLike, n: int, bins: int) -> Counts:
    repeats = np.asarray(counts, dtype=np.float32)
    if repeats.ndim != 2 or repeats.shape[1] != n or not len(repeats):
        raise ValueError(f"Expected multiplicities (draws, {n}), at least one draw, got shape {repeats.shape}.")
    sizes = repeats.sum(axis=1)
    if np.any(sizes != sizes[0]) or sizes[0] < bins:
        raise ValueError(
            f"Expected draws of one size, at least {bins} prompts (one a bin), got sizes from {sizes.min():g} to "
            f"{sizes.max():g}; draw as many prompts as there are, each time."
        )
    return repeats


def _checked(confidence: ArrayLike, correct: ArrayLike, bins: int) -> tuple[Floats, Floats]:
    confidence, correct = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if confidence.ndim != 1 or confidence.shape != correct.shape:
        raise ValueError(
            f"Expected one confidence and one correctness for each prompt, got shapes {confidence.shape} and "
            f"{correct.shape}."
        )
    if bins < 1 or len(confidence) < bins:
        raise ValueError(
            f"Expected at least one prompt for each of {bins} bins, got {len(confidence)} prompts; use more prompts."
        )
    if not np.all((confidence >= 0) & (confidence <= 1)):
        raise ValueError(
            "Expected confidences in [0, 1], got "
            f"{confidence[~((confidence >= 0) & (confidence <= 1))][0]:g}; check the logits for NaN and infinity."
        )
    if not np.all((correct == 0) | (correct == 1)):
        raise ValueError("Expected correctness to be 0 or 1 for every prompt, got other values.")
    return confidence, correct
