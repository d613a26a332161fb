"""Reference x candidate -> estimates: what moved, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pytest_quantcheck.comparing.answer_estimates import flips, prompt_estimates, reliability
from pytest_quantcheck.comparing.intervals import Sampling
from pytest_quantcheck.comparing.layer_estimates import convergence, histograms, layer_estimates
from pytest_quantcheck.comparing.permutations import align
from pytest_quantcheck.errors import ComparisonError
from pytest_quantcheck.profiles import Profile
from pytest_quantcheck.records import RELEASED, Comparison, Measurement

__all__ = ["Sampling", "compare", "refuse_identical"]

_MUST_AGREE = (
    "n_layers",
    "width",
    "vocabulary_hash",
    "chat_template_hash",
    "encoding_hash",
    "prompt_set",
    "prompt_hash",
    "template",
    "readout",
    "layers",
    "redundancy_neurons",
    "attribution",
    "seed",
)


def compare(
    reference: Measurement,
    candidate: Measurement,
    sampling: Sampling | None = None,
    *,
    name: str | None = None,
    profile: Profile | None = None,
    notes: Sequence[str] = (),
) -> Comparison:
    """Estimate every metric of a candidate against its reference.

    Where a layer's neurons stand in another order they are matched first; `notes` says so.

    Args:
        reference: what the model did at full precision.
        candidate: what it did quantized, measured against that reference on the same prompts.
        sampling: confidence level, bootstrap draws and seed of the intervals; the default takes the profile's
            confidence, where there is one, and the reference's seed.
        name: what the candidate is called; its bit-width by default.
        profile: what the comparison will be judged by, for its record.
        notes: sentences to add to the comparison's own.

    Raises:
        ComparisonError: the two were not measured alike; names each difference.
    """
    _refuse_unlike(reference, candidate)
    if sampling is None:
        sampling = Sampling(confidence=profile.confidence if profile else 0.95, seed=reference.provenance.seed)
    aligned = align(reference, candidate)
    layered = aligned.marked(layer_estimates(aligned.reference, aligned.candidate, sampling))
    estimates = (*prompt_estimates(reference, candidate, sampling), *layered)
    return Comparison(
        candidate=name or candidate.provenance.bits,
        prompt_set=candidate.provenance.prompt_set,
        n_prompts=len(candidate.answers.index),
        estimates=estimates,
        identical=identical(reference, candidate),
        reference_provenance=reference.provenance,
        candidate_provenance=candidate.provenance,
        histograms=histograms(reference, candidate),
        reliability=reliability(reference, candidate),
        convergence=convergence(reference, candidate),
        flips=tuple(flips(reference, candidate)),
        profile=profile,
        conditions=tuple(_conditions(reference, candidate)),
        notes=(*_notes(reference), *aligned.notes, *notes),
    )


def identical(reference: Measurement, candidate: Measurement) -> bool:
    """Whether not one answer or activation differs: what a candidate that was never quantized looks like."""
    before, after = reference.answers, candidate.answers
    return (
        np.array_equal(before.confidence, after.confidence)
        and np.array_equal(before.log_probs, after.log_probs)
        and all(
            np.array_equal(reference.activations[layer].minimum, activations.minimum)
            and np.array_equal(reference.activations[layer].maximum, activations.maximum)
            for layer, activations in candidate.activations.items()
        )
    )


def refuse_identical(comparison: Comparison) -> Comparison:
    """The comparison, unless its candidate is the reference.

    Raises:
        ComparisonError: it is, to the last bit: it was never quantized, or the reference is the same file.
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


def _refuse_unlike(reference: Measurement, candidate: Measurement) -> None:
    before, after = reference.provenance, candidate.provenance
    pairs = [(name, getattr(before, name), getattr(after, name)) for name in _MUST_AGREE]
    unlike = [f"{name} ({one!r} in the reference, {two!r} in the candidate)" for name, one, two in pairs if one != two]
    unlike = unlike or list(_unlike_arrays(reference, candidate))
    if unlike:
        raise ComparisonError(f"reference and candidate differ in {'; '.join(unlike)}: measure both alike")


def _unlike_arrays(reference: Measurement, candidate: Measurement) -> Iterator[str]:
    before, after = reference.answers, candidate.answers
    if not np.array_equal(before.index, after.index):
        yield "the prompts measured"
    elif not np.array_equal(before.support, after.support):
        yield "the tokens whose probabilities were kept (the candidate was measured without this reference)"
    for layer, activations in reference.activations.items():
        widths = activations.minimum.shape[1], candidate.activations[layer].minimum.shape[1]
        if widths[0] != widths[1]:
            yield f"the neurons of layer {layer} ({widths[0]} in the reference, {widths[1]} in the candidate)"
        elif not np.array_equal(activations.correlated, candidate.activations[layer].correlated):
            yield f"which neurons of layer {layer} are correlated"


def _notes(reference: Measurement) -> Iterator[str]:
    if not reference.answers.correct.any():
        yield "the reference answers no prompt right, so accuracy cannot drop: look at template, readout and golds"
    if not reference.answers.exact:
        kept = reference.answers.support.shape[1]
        yield f"KL divergence is a lower bound: over the reference's {kept} most probable tokens and the rest"


def _conditions(reference: Measurement, candidate: Measurement) -> Iterator[str]:
    """Yield what may move a number and is no fault of the candidate's: versions of libraries, device, batches.

    A library that one model alone needs, to read its format, is a part of that model.
    """
    before, after = reference.provenance, candidate.provenance
    for name in sorted(before.libraries.keys() & after.libraries.keys()):
        yield from _unequal(name, before.libraries[name], after.libraries[name])
    yield from _unequal("device", before.device, after.device)
    yield from _unequal("batch size", before.batch_size, after.batch_size)


def _unequal(what: str, before: object, after: object) -> Iterator[str]:
    if before != after:
        yield f"{what} {before} for the reference, {after} for the candidate"
