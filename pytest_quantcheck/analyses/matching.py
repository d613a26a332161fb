"""Matching: which neuron of the reference each neuron of a candidate is, if a layer's neurons were reordered.

Neurons permuted together with their rows and columns compute the same function, and each behaves on every prompt as
before. Its extremes over groups of prompts are its signature: most reordered neurons have the signature of exactly one
neuron of the reference. Correlations with some of those, the anchors, distinguish the others: they are many and change
little under rounding. Correlations with all other neurons are not used for matching, so they can confirm the match.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from pytest_quantcheck.records import Activations

Floats = NDArray[np.float64]
Matrix = NDArray[np.float32]
Indices = NDArray[np.int64]
Masks = NDArray[np.bool_]
Rows = Floats | Matrix

LINEAR = 0.1
"""Share of the layer's typical amplitude below which signatures are linear, and above which logarithmic."""

AWAY = 0.1
"""Share of the distance between two neurons of the reference above which a neuron counts as moved."""

DISTINCT = 0.5
"""Share of the distance to the second nearest signature below which the nearest is a match (Lowe's ratio)."""

DISTINCT_PROFILE = 0.7
"""The same for correlations with anchors: so many numbers rarely agree by chance."""

RESOLUTION = 1e-3
"""Distance below which neurons cannot be distinguished: a thousandth of their amplitude."""

ENOUGH = 0.5
"""Share of the varying neurons that must have a distinct match, and of the moved ones that must have swapped places."""

CONFIRMED = 0.5
"""Share of the change of correlations by index that may be left once neurons are matched."""

FEWEST = 16
"""Fewest neurons that can serve as anchors, or confirm a match."""

ANCHORS = 128
"""Most anchors; no more than a third of the matched neurons."""

ROUNDS = 2
"""Times that anchors are chosen; the second time from better matches."""

CHECKED = 512
"""Most moved neurons whose correlations are compared to confirm a match."""

LEFT_OVER = 2048
"""Most neurons without a distinct match that are assigned, as their cost grows with the third power."""

_TILE = 256


@dataclass(frozen=True, eq=False)
class Matching:
    """The result of matching the neurons of one layer.

    `order` (d,) int64: the candidate's neuron that is the reference's neuron i, or None; `shared` (k,) int64,
    ascending: the reference's neurons that are correlated in both models; `moved`: how many neurons have another place;
    without an order, how many seem to, which could be neither confirmed nor refuted; `reason`: why there is no order.
    """

    order: Indices | None
    moved: int = 0
    reason: str = ""
    shared: Indices = field(default_factory=lambda: np.empty(0, dtype=np.int64))


def find_order(reference: Activations, candidate: Activations) -> Matching:
    """Find the order of a candidate's neurons in terms of the reference's.

    A match is the nearest in both directions, and much nearer than the second nearest: first of signatures, then,
    for neurons that are correlated in both, of the correlations with anchors. An order is given only where at least
    half of the neurons have such a match, where those found elsewhere took each other's places, and where
    correlations that no match was made from change at most half as much in that order as by index. Neurons without a
    match of their own are assigned so that their signatures' distances sum to least; those with equal signatures, as
    constant ones, in any order, since any is right.

    Args:
        reference: what the layer did in the reference, d neurons.
        candidate: what it did in the candidate, d neurons; the same ones are correlated.

    Returns:
        The order, or why there is none.
    """
    before, after = _signatures(reference, candidate)
    if not _any_away(before, after):
        return Matching(None, reason="every neuron is where it was")
    # match: by signatures, then by correlations with anchors
    varying = ~constant(reference), ~constant(candidate)
    order, anchors = _refined(reference, candidate, _mutual_matches(before, after, *varying), varying)
    # give up where the matches do not look like a permutation
    if not _looks_moved(order):
        return Matching(None, reason="no neurons are found elsewhere")
    if np.count_nonzero(order >= 0) < ENOUGH * np.count_nonzero(varying[0]):
        return Matching(None, reason="too few neurons are like one neuron of the reference and no other")
    if not _closed(order):
        return Matching(None, reason="the neurons found elsewhere did not take each other's places")
    # assign the neurons without a match
    completed = _completed(order, before, after, *varying)
    if completed is None:
        return Matching(None, _moved(order), f"more than {LEFT_OVER} neurons are like none or like several")
    # confirm by correlations that no match was made from
    every = len(reference.correlated) == len(order)
    shared = reference.correlated if every else _shared(order, reference.correlated)
    return _confirmed(reference, candidate, Matching(completed, _moved(completed), shared=shared), anchors)


def constant(activations: Activations) -> Masks:
    """Find the neurons that have one value on all tokens, (d,) bool."""
    same: Masks = activations.minimum.min(axis=0) == activations.maximum.max(axis=0)
    return same


def reorder(
    reference: Activations, candidate: Activations, order: Indices, shared: Indices
) -> tuple[Activations, Activations]:
    """Put the candidate's neurons into the reference's order in both records.

    `order` is (d,) int64. Both keep the correlations of those `shared`, (k,) int64, and follow those of them that both
    followed.
    """
    followed = np.intersect1d(reference.sample, shared)
    followed = followed[np.isin(order[followed], candidate.sample)]
    return _cut(reference, shared, followed), _cut(candidate, shared, followed, order)


def _cut(activations: Activations, correlated: Indices, followed: Indices, order: Indices | None = None) -> Activations:
    """Cut the record to some neurons, renumbered by their places in `order`."""
    order = np.arange(activations.minimum.shape[1]) if order is None else order
    places = np.searchsorted(activations.sample, order[followed])
    return Activations(
        minimum=activations.minimum[:, order],
        maximum=activations.maximum[:, order],
        correlated=correlated,
        correlations=activations.correlations.of(np.searchsorted(activations.correlated, order[correlated])),
        sample=followed,
        groups=tuple(group.of(places) for group in activations.groups),
        rectified=activations.rectified,
    )


def _signatures(reference: Activations, candidate: Activations) -> tuple[Floats, Floats]:
    """Map both models' extremes to a partly logarithmic scale.

    Each is (d, 2 * groups) float64. The scale is linear for small values and logarithmic for large ones, so that the
    same relative error distinguishes neurons of large and of small amplitude.
    """
    raw = [_extremes(activations) for activations in (reference, candidate)]
    occupied = np.all([np.isfinite(values).all(axis=0) for values in raw], axis=0)  # a group may have no prompts
    before, after = (values[:, occupied] for values in raw)
    amplitude = np.abs(before).max(axis=1, initial=0.0)
    unit = LINEAR * float(np.median(amplitude[amplitude > 0])) if np.any(amplitude) else 1.0
    before, after = np.arcsinh(before / unit), np.arcsinh(after / unit)
    centre = before.mean(axis=0)
    return before - centre, after - centre


def _extremes(activations: Activations) -> Floats:
    return np.concatenate([activations.minimum, activations.maximum]).T.astype(np.float64)


def _any_away(before: Floats, after: Floats) -> bool:
    """Say whether any neuron moved by a share of neurons' typical distance; neighbours stand for all pairs."""
    apart = float(np.median(_apart(before[1:], before[:-1]))) if len(before) > 1 else 0.0
    return bool(np.any(_apart(before, after) > max(AWAY * apart, RESOLUTION)))


def _apart(rows: Rows, partners: Rows) -> Floats:
    """Measure the root mean square distance of rows."""
    return np.asarray(np.sqrt(np.mean((rows - partners) ** 2, axis=1)), dtype=np.float64)


def _refined(
    reference: Activations, candidate: Activations, order: Indices, varying: tuple[Masks, Masks]
) -> tuple[Indices, Indices]:
    """Match the correlated neurons again by correlations with anchors; return the order and the anchors."""
    rows, used = reference.correlated, np.empty(0, dtype=np.int64)
    for _ in range(ROUNDS):
        shared = _shared(order, rows)
        if not _looks_moved(order) or len(shared) < FEWEST:
            break
        anchors = _spaced(shared, min(ANCHORS, len(shared) // 3))
        profiles = _profiles(reference, rows, anchors), _profiles(candidate, rows, order[anchors])
        matches = _mutual_matches(*profiles, *(mask[rows] for mask in varying), ratio=DISTINCT_PROFILE)
        order, used = _replaced(order, rows, matches), np.union1d(used, anchors)
    return order, used


def _shared(order: Indices, correlated: Indices) -> Indices:
    """Select the correlated neurons whose match is correlated too."""
    return correlated[np.isin(order[correlated], correlated)]


def _replaced(order: Indices, rows: Indices, matches: Indices) -> Indices:
    """Replace the matches of some rows in the order; `matches` (rows,): positions among them, -1 for none."""
    theirs, better = rows[matches], order.copy()
    better[_shared(order, rows)] = -1
    better[np.isin(better, theirs[matches >= 0])] = -1
    better[rows[matches >= 0]] = theirs[matches >= 0]
    return better


def _mutual_matches(
    before: Rows,
    after: Rows,
    varying: Masks,
    still_varying: Masks,
    *,
    ratio: float = DISTINCT,
) -> Indices:
    """Find each neuron's distinct match in the candidate, or -1."""
    ours, theirs = np.flatnonzero(varying), np.flatnonzero(still_varying)
    order = np.full(len(before), -1, dtype=np.int64)
    if min(len(ours), len(theirs)) < 2:
        return order
    # a match is the nearest, and distinct, in both directions
    nearest, clear = _nearest_rows(after[theirs], before[ours], ratio)
    back, clear_back = _nearest_rows(before[ours], after[theirs], ratio)
    mutual = np.flatnonzero(clear & clear_back[nearest] & (back[nearest] == np.arange(len(theirs))))
    order[ours[nearest[mutual]]] = theirs[mutual]
    return order


def _nearest_rows(rows: Rows, others: Rows, ratio: float) -> tuple[Indices, Masks]:
    """Find each row's nearest of the others, and whether it is distinct.

    It is distinct if it is clearly nearer than the second nearest. Which two are nearest is found in float32, a tile of
    distances at a time; how far they are, in float64.
    """
    two = np.empty((2, len(rows)), dtype=np.int64)
    squares = np.sum(others.astype(np.float64) ** 2, axis=1)
    right = np.concatenate([-2 * others, squares[:, None]], axis=1).astype(np.float32).T
    left = np.concatenate([rows, np.ones((len(rows), 1))], axis=1).astype(np.float32)
    for start in range(0, len(rows), _TILE):
        tile = left[start : start + _TILE] @ right
        two[0, start : start + _TILE] = first = tile.argmin(axis=1)
        tile[np.arange(len(tile)), first] = np.inf
        two[1, start : start + _TILE] = tile.argmin(axis=1)
    best, second = (_apart(rows, others[places]) for places in two)
    return two[0], np.asarray((best < ratio * second) & (second > RESOLUTION))


def _profiles(activations: Activations, rows: Indices, columns: Indices) -> Matrix:
    """Correlate neurons with others: Pearson's r, (rows, columns) float32; 0 with itself and if constant."""
    i, j = (np.searchsorted(activations.correlated, neurons) for neurons in (rows, columns))
    sums = activations.correlations.comoment
    scale = np.sqrt(np.diagonal(sums).astype(np.float64))
    scale = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0).astype(np.float32)
    r: Matrix = sums[np.ix_(i, j)] * scale[i][:, None] * scale[j]
    r[i[:, None] == j] = 0
    return r


def _spaced(neurons: Indices, most: int) -> Indices:
    """Pick at most `most` of the neurons, evenly spaced."""
    return neurons[np.linspace(0, len(neurons) - 1, min(most, len(neurons))).astype(np.int64)]


def _looks_moved(order: Indices) -> bool:
    """Say whether enough neurons are matched, and some of them have moved."""
    return bool(np.count_nonzero(order >= 0) >= FEWEST) and _moved(order) > 1


def _closed(order: Indices) -> bool:
    """Say whether most moved neurons took the place of another moved one; by chance few do."""
    moved = (order >= 0) & (order != np.arange(len(order)))
    return bool(np.isin(order[moved], np.flatnonzero(moved)).mean() >= ENOUGH)


def _moved(order: Indices) -> int:
    return int(np.count_nonzero((order >= 0) & (order != np.arange(len(order)))))


def _completed(order: Indices, before: Floats, after: Floats, varying: Masks, still_varying: Masks) -> Indices | None:
    """Assign each unmatched neuron: to its own place, any constant one's, or by least distance."""
    order, here = order.copy(), np.arange(len(order))
    # to its own place, if no other neuron has it
    stays = (order < 0) & ~np.isin(here, order)
    if np.count_nonzero(order == here) <= _moved(order):
        stays &= ~varying & ~still_varying  # most moved, so that one which varies need not be where it was
    order[stays] = here[stays]
    # to any constant neuron's place, if it is constant
    free = ~np.isin(here, order)
    ours, theirs = np.flatnonzero((order < 0) & ~varying), np.flatnonzero(free & ~still_varying)
    n = min(len(ours), len(theirs))
    order[ours[:n]] = theirs[:n]
    # the rest by least distance
    ours, theirs = np.flatnonzero(order < 0), np.flatnonzero(~np.isin(here, order))
    if len(ours) > LEFT_OVER:
        return None
    if len(ours):
        rows, columns = linear_sum_assignment(cdist(before[ours], after[theirs]))
        order[ours[rows]] = theirs[columns]
    return order


def _confirmed(reference: Activations, candidate: Activations, match: Matching, anchors: Indices) -> Matching:
    """Reject the match unless correlations not used for it confirm it."""
    order, shared = match.order, match.shared
    assert order is not None
    shared = shared[~constant(reference)[shared] & ~constant(candidate)[order[shared]]]
    moved, others = _spaced(shared[order[shared] != shared], CHECKED), np.setdiff1d(shared, anchors)
    if len(others) < FEWEST or not len(moved):
        few = f"{len(moved)} of them and {len(others)} others are correlated in both models, too few to confirm it"
        return Matching(None, match.moved, few)
    # the change of their correlations with others: by index, and as matched
    expected = _profiles(reference, moved, others)
    by_index = np.abs(_profiles(candidate, moved, others) - expected).mean()
    matched = np.abs(_profiles(candidate, order[moved], order[others]) - expected).mean()
    if matched > CONFIRMED * by_index:
        return Matching(None, reason="correlations with other neurons contradict the match")
    return match
