"""Comparisons: the measurements of a reference and of a candidate, and the estimates made from both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from pytest_quantcheck.analyses.reference_evidence import evidence_of
from pytest_quantcheck.comparing.answer_estimates import flips, prompt_estimates, reliability_diagrams
from pytest_quantcheck.comparing.intervals import IntervalSettings
from pytest_quantcheck.comparing.judged_ffns import expert_notes
from pytest_quantcheck.comparing.layer_estimates import convergence, histograms, layer_estimates
from pytest_quantcheck.comparing.passages import token_divergence
from pytest_quantcheck.comparing.permutations import align
from pytest_quantcheck.comparing.token_estimates import token_estimates
from pytest_quantcheck.compatibility import conditions, refusals
from pytest_quantcheck.errors import ComparisonError
from pytest_quantcheck.profiles import Profile
from pytest_quantcheck.records import RELEASED, Comparison, Estimate, Evidence, Measurement
from pytest_quantcheck.text import shortened

_WORTH_NAMING = 0.005
"""The share of a model's weights from which a part that is not quantized is named: 1 % once it is rounded."""


def compare(
    reference: Measurement,
    candidate: Measurement,
    intervals: IntervalSettings | None = None,
    *,
    name: str | None = None,
    profile: Profile | None = None,
    notes: Sequence[str] = (),
) -> Comparison:
    """Estimate every metric of a candidate against its reference.

    Neurons that were reordered within a layer are matched first; `notes` says so.

    Args:
        reference: what the model did at full precision.
        candidate: what it did quantized, measured against that reference on the same prompts.
        intervals: confidence level, bootstrap draws and seed of the intervals; by default with the profile's
            confidence, where there is a profile, and the reference's seed.
        name: what the candidate is called; its bit-width by default.
        profile: what the comparison will be judged by, for its record.
        notes: sentences to add to the comparison's own.

    Raises:
        ComparisonError: the two were not measured alike; names each difference.
    """
    _check_comparable(reference, candidate)
    if intervals is None:
        confidence = profile.confidence if profile else 0.95
        intervals = IntervalSettings(confidence=confidence, seed=reference.provenance.seed)
    aligned = align(reference, candidate)
    layered = aligned.mark(layer_estimates(aligned.reference, aligned.candidate, intervals))
    evidence = evidence_of(reference.answers, reference.golds, reference.available)
    answered = (_without_value(estimate, evidence) for estimate in prompt_estimates(reference, candidate, intervals))
    return Comparison(
        candidate=name or candidate.provenance.bits,
        prompt_set=candidate.provenance.prompt_set,
        n_prompts=len(candidate.answers.index),
        estimates=(*answered, *token_estimates(reference, candidate, intervals), *layered),
        identical=identical(reference, candidate),
        reference_provenance=reference.provenance,
        candidate_provenance=candidate.provenance,
        histograms=histograms(reference, candidate),
        reliability=reliability_diagrams(reference, candidate),
        convergence=convergence(reference, candidate),
        flips=tuple(flips(reference, candidate)),
        profile=profile,
        conditions=tuple(conditions(reference.provenance, candidate.provenance)),
        notes=(
            *_notes(reference, evidence),
            *_share_notes(candidate),
            *_outside_notes(candidate),
            *expert_notes(reference, candidate),
            *aligned.notes,
            *notes,
        ),
        evidence=evidence,
        token_divergence=token_divergence(reference, candidate),
    )


def identical(reference: Measurement, candidate: Measurement) -> bool:
    """Say whether all answers and activations are equal, bit for bit.

    Those of a candidate that was never quantized are.
    """
    before, after = reference.answers, candidate.answers
    return (
        np.array_equal(before.confidence, after.confidence)
        and np.array_equal(before.log_probs, after.log_probs)
        and all(
            np.array_equal(one.minimum, other.minimum) and np.array_equal(one.maximum, other.maximum)
            for layer in candidate.provenance.layers
            for one, other in zip(reference.ffns(layer), candidate.ffns(layer), strict=True)
        )
    )


def refuse_identical(comparison: Comparison) -> Comparison:
    """Refuse a comparison whose candidate is equal to the reference; hand on others.

    Raises:
        ComparisonError: it is equal to the last bit: it was never quantized, or the reference is the same file.
    """
    if not comparison.identical:
        return comparison
    reference, candidate = comparison.reference_provenance, comparison.candidate_provenance
    same_files = candidate.bits == RELEASED and candidate.content_hash == reference.content_hash
    why = (
        f"; {reference.model}, its reference, is the same file or has the same files: name what it was made from"
        if same_files
        else f", so this candidate was never quantized (its modules: {candidate.module_types})"
    )
    raise ComparisonError(
        f"{comparison.candidate} on {comparison.prompt_set}: every answer and activation equals the reference's to the "
        f"last bit{why}"
    )


def _check_comparable(reference: Measurement, candidate: Measurement) -> None:
    differences = [
        f"{name} ({expected!r} in the reference, {obtained!r} in the candidate)"
        for name, expected, obtained in refusals("comparing", reference.provenance, candidate.provenance)
    ] or list(_array_differences(reference, candidate))
    if differences:
        raise ComparisonError(f"reference and candidate differ in {'; '.join(differences)}: measure both alike")


def _same_tokens(reference: Measurement, candidate: Measurement) -> bool:
    """Say whether both were scored on the same tokens, or neither was."""
    before, after = reference.scored, candidate.scored
    if before is None or after is None:
        return before is after
    told = ("index", "lengths", "token", "support")
    return all(np.array_equal(getattr(before, name), getattr(after, name)) for name in told)


def _array_differences(reference: Measurement, candidate: Measurement) -> Iterator[str]:
    before, after = reference.answers, candidate.answers
    if not np.array_equal(before.index, after.index):
        yield "the prompts measured"
    elif not np.array_equal(before.support, after.support):
        yield "the tokens whose probabilities were kept (the candidate was measured without this reference)"
    if not _same_tokens(reference, candidate):
        yield "the tokens that were scored (the candidate was measured without this reference)"
    for layer in reference.provenance.layers:
        pair = reference.ffns(layer), candidate.ffns(layer)
        widths = [[one.minimum.shape[1] for one in ffns] for ffns in pair]
        if widths[0] != widths[1]:
            sizes = [sum(width) for width in widths]
            yield f"the neurons of layer {layer} ({sizes[0]} in the reference, {sizes[1]} in the candidate)"
        elif not all(np.array_equal(one.correlated, other.correlated) for one, other in zip(*pair, strict=True)):
            yield f"which neurons of layer {layer} are correlated"


def _without_value(estimate: Estimate, evidence: Evidence) -> Estimate:
    """Remove the value and interval that the reference's answers cannot support."""
    reason = evidence.lacking.get(estimate.metric)
    if reason is None or estimate.value is None:
        return estimate
    return msgspec.structs.replace(estimate, value=None, low=None, high=None, method="", reason=reason)


def _share_notes(candidate: Measurement) -> Iterator[str]:
    """Say which share is quantized, and warn where it is small."""
    share = candidate.provenance.quantized_share
    if share is None:
        return
    plain = {name: size / share.parameters for name, size in share.largest_plain.items()}
    named = ", ".join(f"{name} ({part:.0%})" for name, part in plain.items() if part >= _WORTH_NAMING)
    yield (
        f"{share.quantized / share.parameters:.0%} of the weights are quantized"
        + (f", {share.quantized_bytes / share.bytes:.0%} of the bytes" if share.bytes and share.quantized_bytes else "")
        + (f"; not quantized: {named}" if named else "")
    )
    if share.block_quantized < share.block_parameters / 2:
        yield (
            "warning: less than half of the weights of the blocks are quantized "
            f"({share.block_quantized / share.block_parameters:.0%}): most of what was measured is the reference's own"
        )


def _outside_notes(candidate: Measurement) -> Iterator[str]:
    """Name the parts of which nothing was measured."""
    if outside := candidate.provenance.outside_text:
        parts = [f"{name} ({size:,} weights)" for name, size in outside.items()]
        yield f"not measured, because prompts are text: {shortened(parts)}"


def _notes(reference: Measurement, evidence: Evidence) -> Iterator[str]:
    if repeated := evidence.prompts - evidence.inputs:
        yield f"{repeated:,} of {evidence.prompts:,} prompts are the same tokens as others: each is measured once"
    if not reference.answers.exact:
        kept = reference.answers.support.shape[1]
        yield f"KL divergence is a lower bound: over the reference's {kept} most probable tokens and the rest"
    if (scored := reference.scored) is not None:
        tokens, kept = scored.support.shape
        yield (
            f"{tokens:,} tokens that the reference wrote are scored; token KL and its percentile are lower bounds: "
            f"over the reference's {kept} most probable tokens at each and the rest"
        )
        if reference.provenance.continuation > 1 and scored.lengths.max() == 1:
            yield (
                f"warning: after each of {len(scored.index):,} prompts the reference wrote one token and ended, so "
                "that metrics of scored tokens see no text: look at the template "
                f"({reference.provenance.template!r:.60})"
            )
