"""Neurons that were reordered within a layer: matched, so that each is compared with itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import msgspec

from pytest_quantcheck.analyses.matching import Indices, Matching, find_order, reorder
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
        matching = find_order(reference.activations[layer], candidate.activations[layer])
        if matching.order is not None:
            aligned = _matched(aligned, layer, matching, matching.order)
        elif matching.moved:
            note = (
                f"layer {layer}: {matching.moved:,} neurons may stand elsewhere in the candidate, which could not be "
                f"settled ({matching.reason}); they are compared by index, so if the candidate only reorders them, "
                "churn, overlap and redundancy change of this layer say too much: trust the metrics of answers"
            )
            aligned = replace(aligned, notes=(*aligned.notes, note))
    return aligned


def _matched(aligned: Aligned, layer: int, matching: Matching, order: Indices) -> Aligned:
    reference, candidate = aligned.reference, aligned.candidate
    before, after = reorder(reference.activations[layer], candidate.activations[layer], order, matching.shared)
    saliency = {**candidate.saliency}
    if layer in saliency:
        saliency[layer] = _reorder_saliency(saliency[layer], order)
    n_shared, n_correlated = len(matching.shared), len(reference.activations[layer].correlated)
    sampled = f"; correlations are those of {n_shared:,} neurons known in both" if n_shared < n_correlated else ""
    note = (
        f"layer {layer}: {matching.moved:,} of {len(order):,} neurons stand elsewhere in the candidate; each is "
        f"compared with itself, so their order changes no verdict{sampled}"
    )
    return Aligned(
        reference=replace(reference, activations={**reference.activations, layer: before}),
        candidate=replace(candidate, activations={**candidate.activations, layer: after}, saliency=saliency),
        moved={**aligned.moved, layer: matching.moved},
        notes=(*aligned.notes, note),
    )


def _reorder_saliency(saliency: Saliency, order: Indices) -> Saliency:
    return replace(saliency, salient=saliency.salient[:, order])
