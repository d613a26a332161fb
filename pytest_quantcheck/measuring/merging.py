"""Merging: measurements of disjoint shards become the measurement of the whole prompt set."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from pytest_quantcheck.analyses import correlation_sums
from pytest_quantcheck.analyses.saliency import PROBES, given_up
from pytest_quantcheck.compatibility import refusals
from pytest_quantcheck.errors import ComparisonError
from pytest_quantcheck.records import Activations, Answers, Experts, Measurement, Provenance, Saliency, ScoredTokens

_T = TypeVar("_T")


def merge(parts: Sequence[Measurement]) -> Measurement:
    """Merge the measurements of disjoint shards of one prompt set.

    The order of the parts does not matter. Nor does it matter which are merged first: answers, extremes and
    saliency are the same bit for bit, correlation sums to float32 rounding. The provenance is that of the first
    shard, which is a shard no more. A part without attributed prompts may lack saliency.

    Raises:
        ComparisonError: parts whose provenance differs in what `compatibility.py` refuses for merging, that share a
            prompt, or whose records do not fit together.
        ValueError: no parts.
    """
    if not parts:
        raise ValueError("Expected at least one measurement to merge, got none.")
    return _merged(sorted(parts, key=lambda part: part.answers.index[:1].tolist()))


def merge_in_order(shards: Iterable[Measurement]) -> Measurement:
    """Merge shards one after another: all records together would not fit the memory, where layers are wide."""
    numbered = enumerate(shards)
    _, whole = next(numbered)
    for added, shard in numbered:
        whole = _merged((whole, shard), overwrite=added > 1)  # a sum of two is ours, a shard is not
    return whole


def _merged(parts: Sequence[Measurement], *, overwrite: bool = False) -> Measurement:
    """Merge parts, their sums in this order; `overwrite` those of the first."""
    return Measurement(
        provenance=_merge_provenance([part.provenance for part in parts]),
        answers=_merge_answers([part.answers for part in parts]),
        activations=_merge_activations([part.activations for part in parts], overwrite=overwrite),
        saliency=_merge_saliency(
            [part.saliency for part in parts], adaptive=parts[0].provenance.attribution.startswith("adaptive")
        ),
        golds=_agreed("golds", [part.golds for part in parts]),
        available=_agreed("number of available prompts", [part.available for part in parts]),
        experts=_merge_mixtures(
            [part.experts for part in parts], _prompt_order([p.answers.index for p in parts]), overwrite=overwrite
        ),
        scored=_merge_scored([part.scored for part in parts]),
        texts=dict(sorted(pair for part in parts for pair in part.texts.items())),
    )


def _merge_provenance(parts: Sequence[Provenance]) -> Provenance:
    first, *others = parts
    for provenance in others:
        check_same_origin(first, provenance)
    return msgspec.structs.replace(first, shard=None)


def check_same_origin(expected: Provenance, obtained: Provenance) -> None:
    """Refuse two shards that were not measured alike.

    Raises:
        ComparisonError: names each field that differs, with both values.
    """
    differences = [
        f"{name} {before!r} and {after!r}" for name, before, after in refusals("merging", expected, obtained)
    ]
    if differences:
        raise ComparisonError(
            f"expected shards of one measurement, got {'; '.join(differences)}. Measure all shards with "
            "the same model, prompts, settings and libraries."
        )


def _merge_answers(parts: Sequence[Answers]) -> Answers:
    exact = _agreed("answers.exact", [part.exact for part in parts])
    _agreed("number of supporting tokens", [part.support.shape[1] for part in parts])
    return Answers(**_joined(parts, _prompt_order([part.index for part in parts])), exact=exact)


def _merge_scored(parts: Sequence[ScoredTokens | None]) -> ScoredTokens | None:
    _agreed("scored tokens", [part is not None for part in parts])
    scored = [part for part in parts if part is not None]
    if not scored:
        return None
    order = _prompt_order([part.index for part in scored])
    lengths = np.concatenate([part.lengths for part in scored])
    tokens = np.split(np.arange(lengths.sum()), np.cumsum(lengths)[:-1])
    return ScoredTokens(
        **{
            name: np.concatenate([getattr(part, name) for part in scored])[
                order if name in {"index", "lengths"} else np.concatenate([tokens[i] for i in order])
            ]
            for name in vars(scored[0])
        }
    )


def _merge_activations(parts: Sequence[dict[int, Activations]], *, overwrite: bool) -> dict[int, Activations]:
    _agreed("layers", [sorted(part) for part in parts])
    return {layer: _merge_layer(layer, [part[layer] for part in parts], overwrite=overwrite) for layer in parts[0]}


def _merge_mixtures(
    parts: Sequence[dict[int, Experts]], order: NDArray[np.intp], *, overwrite: bool
) -> dict[int, Experts]:
    _agreed("layers of experts", [sorted(part) for part in parts])
    return {
        layer: _merge_experts(layer, [part[layer] for part in parts], order, overwrite=overwrite) for layer in parts[0]
    }


def _merge_experts(layer: int, parts: Sequence[Experts], order: NDArray[np.intp], *, overwrite: bool) -> Experts:
    _agreed(f"number of experts of layer {layer}", [len(part.neurons) for part in parts])
    routes = [route for part in parts for route in part.by_prompt()]
    return Experts(
        neurons=tuple(
            _merge_layer(layer, expert, overwrite=overwrite)
            for expert in zip(*(part.neurons for part in parts), strict=True)
        ),
        chosen=np.concatenate([routes[i] for i in order]),
        lengths=np.concatenate([part.lengths for part in parts])[order],
    )


def _merge_layer(layer: int, parts: Sequence[Activations], *, overwrite: bool) -> Activations:
    _agreed(f"groups and neurons of layer {layer}", [part.minimum.shape for part in parts])
    for what, chosen in (("sample of", [p.sample for p in parts]), ("correlated", [p.correlated for p in parts])):
        if not all(np.array_equal(chosen[0], other) for other in chosen[1:]):
            _agreed(f"{what} neurons of layer {layer}", [neurons.tolist() for neurons in chosen])
    return Activations(
        minimum=np.minimum.reduce([part.minimum for part in parts]),
        maximum=np.maximum.reduce([part.maximum for part in parts]),
        correlated=parts[0].correlated,
        correlations=correlation_sums.merge_sums([part.correlations for part in parts], overwrite=overwrite),
        sample=parts[0].sample,
        groups=tuple(
            correlation_sums.merge_sums(group, overwrite=overwrite)
            for group in zip(*(part.groups for part in parts), strict=True)
        ),
        rectified=_agreed(f"kind of activation function of layer {layer}", [part.rectified for part in parts]),
    )


def _merge_saliency(parts: Sequence[dict[int, Saliency]], *, adaptive: bool) -> dict[int, Saliency]:
    layers = sorted({layer for part in parts for layer in part})
    return {
        layer: _merge_attributed(layer, [part[layer] for part in parts if layer in part], adaptive=adaptive)
        for layer in layers
    }


def _merge_attributed(layer: int, parts: Sequence[Saliency], *, adaptive: bool) -> Saliency:
    """Join a layer's prompts.

    Each part probed the layer on its own first prompts; the whole is probed again on the first of all.
    """
    _agreed(f"number of neurons of layer {layer}", [part.salient.shape[1] for part in parts])
    order = _prompt_order([part.index for part in parts])
    converged = _joined(parts, order)["converged"]
    for tried in PROBES if adaptive else ():
        if given_up(converged[:tried], len(order)):
            order = order[:tried]
            break
    return Saliency(**_joined(parts, order))


def _joined(parts: Sequence[Answers] | Sequence[Saliency], order: NDArray[np.intp]) -> dict[str, NDArray[Any]]:
    """Join each array of all parts in prompt order."""
    arrays = [name for name, value in vars(parts[0]).items() if isinstance(value, np.ndarray)]
    return {name: np.concatenate([getattr(part, name) for part in parts])[order] for name in arrays}


def _prompt_order(indices: Sequence[NDArray[np.int64]]) -> NDArray[np.intp]:
    """Find the order that sorts the prompts of all parts; refuse a prompt that occurs twice."""
    index = np.concatenate(indices)
    order = np.argsort(index, kind="stable")
    again = np.flatnonzero(np.diff(index[order]) == 0)
    if len(again):
        raise ComparisonError(
            f"expected shards without a prompt in common, got prompt {index[order][again[0]]} more than once; merge "
            "each shard once, and only shards that were cut from the same split."
        )
    return order


def _agreed(what: str, values: Sequence[_T]) -> _T:
    first = values[0]
    for value in values[1:]:
        if value != first:
            raise ComparisonError(
                f"expected shards with the same {what}, got {reprlib.repr(first)} and {reprlib.repr(value)}."
            )
    return first
