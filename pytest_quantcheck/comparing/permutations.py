"""Neurons that were reordered within a layer: matched, so that each is compared with itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from pytest_quantcheck.analyses.matching import Indices, Matching, find_order, reorder
from pytest_quantcheck.comparing.judged_ffns import seen_in_both
from pytest_quantcheck.records import Estimate, Measurement, Saliency


@dataclass(frozen=True, eq=False)
class Aligned:
    """Two measurements in which neurons of equal index are the same neuron.

    `moved`: how many neurons of each layer have another place in the candidate; `notes`: a sentence for each such
    layer, and for each layer where neurons may have moved and could not be matched.
    """

    reference: Measurement
    candidate: Measurement
    moved: dict[int, int]
    notes: tuple[str, ...]

    def mark(self, estimates: Iterable[Estimate]) -> Iterator[Estimate]:
        """Yield the estimates; those of matched layers get `moved_neurons` in their details."""
        for estimate in estimates:
            moved = self.moved.get(-1 if estimate.layer is None else estimate.layer)
            details = {**estimate.details, "moved_neurons": float(moved)} if moved else estimate.details
            yield msgspec.structs.replace(estimate, details=details)


def align(reference: Measurement, candidate: Measurement) -> Aligned:
    """Put the candidate's neurons into the reference's order, layer by layer.

    Answers stay as they are: they do not depend on the order of neurons.
    """
    aligned = Aligned(reference, candidate, {}, ())
    for layer in reference.provenance.layers:
        pairs = list(zip(reference.ffns(layer), candidate.ffns(layer), strict=True))
        matchings = [find_order(*pair) if seen_in_both(*pair) else Matching(None) for pair in pairs]
        if any(matching.order is not None for matching in matchings):
            aligned = _matched(aligned, layer, matchings)
        if doubtful := [matching for matching in matchings if matching.order is None and matching.moved]:
            note = (
                f"layer {layer}: {sum(one.moved for one in doubtful):,} neurons may stand elsewhere in the candidate, "
                f"which could not be settled ({doubtful[0].reason}); they are compared by index, so if the candidate "
                "only reorders them, churn, overlap and redundancy change of this layer say too much: trust the "
                "metrics of answers"
            )
            aligned = replace(aligned, notes=(*aligned.notes, note))
    return aligned


def _matched(aligned: Aligned, layer: int, matchings: Sequence[Matching]) -> Aligned:
    reference, candidate = aligned.reference, aligned.candidate
    pairs = zip(reference.ffns(layer), candidate.ffns(layer), matchings, strict=True)
    ordered = [
        (before, after) if matching.order is None else reorder(before, after, matching.order, matching.shared)
        for before, after, matching in pairs
    ]
    orders = [
        np.arange(before.minimum.shape[1]) if matching.order is None else matching.order
        for (before, _), matching in zip(ordered, matchings, strict=True)
    ]
    starts = np.cumsum([0, *map(len, orders)])
    order = np.concatenate([start + one for start, one in zip(starts, orders, strict=False)])
    saliency = {**candidate.saliency}
    if layer in saliency:
        saliency[layer] = _reorder_saliency(saliency[layer], order)
    known = sum(len(before.correlated) for before, _ in ordered)
    fewer = known < sum(len(before.correlated) for before in reference.ffns(layer))
    sampled = f"; correlations are those of {known:,} neurons known in both" if fewer else ""
    moved = sum(matching.moved for matching in matchings if matching.order is not None)
    note = (
        f"layer {layer}: {moved:,} of {len(order):,} neurons stand elsewhere in the candidate; each is "
        f"compared with itself, so their order changes no verdict{sampled}"
    )
    return Aligned(
        reference=reference.with_ffns(layer, [before for before, _ in ordered]),
        candidate=replace(candidate.with_ffns(layer, [after for _, after in ordered]), saliency=saliency),
        moved={**aligned.moved, layer: moved},
        notes=(*aligned.notes, note),
    )


def _reorder_saliency(saliency: Saliency, order: Indices) -> Saliency:
    return replace(saliency, salient=saliency.salient[:, order])
