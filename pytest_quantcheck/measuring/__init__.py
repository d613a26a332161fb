"""Measuring: one model on one prompt set is checked, run shard by shard in two passes, and recorded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import msgspec
import numpy as np

from pytest_quantcheck.analyses.reference_evidence import evidence_of
from pytest_quantcheck.errors import MeasurementError
from pytest_quantcheck.measuring.merging import merge_in_order
from pytest_quantcheck.measuring.passes import Passes, is_out_of_memory
from pytest_quantcheck.measuring.plan import NoProgress, Plan, ProgressReporter
from pytest_quantcheck.measuring.shards import FinishedShards, NothingFinished, Shard
from pytest_quantcheck.measuring.tokenized import TokenizedPrompts, tokenize
from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.models.encoding import encoding_hash
from pytest_quantcheck.models.gradients import gradient_path
from pytest_quantcheck.models.loaded import LoadedModel
from pytest_quantcheck.models.pretrained import context_of
from pytest_quantcheck.options.attribution import covering
from pytest_quantcheck.prompts import PromptSet
from pytest_quantcheck.records import Evidence, Measurement, Provenance

__all__ = ["NoProgress", "Plan", "ProgressReporter", "measure"]


def measure(
    loaded: LoadedModel,
    prompts: PromptSet,
    plan: Plan,
    *,
    model: str,
    revision: str | None = None,
    reference: Measurement | None = None,
    index: Sequence[int] | None = None,
    progress: ProgressReporter | None = None,
    finished: FinishedShards | None = None,
) -> Measurement:
    """Measure what a model does on a prompt set.

    Of prompts that are the same tokens, the first of the set is measured. The set is measured shard by shard, and
    merged: a shard's batches follow from the settings alone.

    Args:
        loaded: the model.
        prompts: the prompt set.
        plan: what to measure.
        model: the model's name, for the record.
        revision: its revision, for the record.
        reference: the reference's measurement when `loaded` is a candidate: its answers are attributed, and
            log-probabilities are compared at its most probable tokens.
        index: positions of the prompts to measure; all by default.
        progress: reports how many prompts are done; None for no reports.
        finished: keeps finished shards of this measurement. A run that finds some there measures the others, and the
            measurement is the same to the last bit.

    Raises:
        MeasurementError: non-finite logits or activations, not enough memory, more shards than batches, or a reference
            that was not measured on these prompts, or reads them as other tokens.
        ModelError: a layer that the model does not have.
        PromptError: a prompt that the model cannot read, a missing chat template, prompts that are the same tokens and
            have different golds, or fewer than ten distinct inputs of a set with repeats.
        StorageError: a damaged shard that `finished` cannot set aside.
        ValueError: an `index` that is empty, repeats a position or goes beyond the prompt set.
    """
    positions = _positions(prompts, index)
    context = context_of(loaded.model.config)
    tokenized = tokenize(loaded.tokenizer, prompts, context=context, readout=plan.readout)
    _check_same_encoding(reference, tokenized.encoded, model)
    wanted = _first_of_equal(tokenized, positions)
    _check_covered(reference, wanted)
    passes = Passes(loaded, prompts, plan, reference, tokenized, progress or NoProgress())
    provenance = _provenance(passes, model, revision)
    with _memory_errors(plan):
        measured = merge_in_order(_measure_shards(passes, wanted, provenance, finished or NothingFinished()))
    names = {name: getattr(provenance, name) for name in ("model", "revision", "prompt_set")}
    measured = replace(measured, provenance=msgspec.structs.replace(measured.provenance, **names))
    if reference is None and plan.shard is None:
        _announce_gaps(evidence_of(measured.answers, prompts.golds, measured.available), passes.progress)
    return measured


def _measure_shards(
    passes: Passes, index: Sequence[int], provenance: Provenance, finished: FinishedShards
) -> Iterator[Measurement]:
    """Yield each shard's measurement, taken up or made now.

    At which layers attribution is given up is decided by the first shard that attributes, and handed on.
    """
    shards, alone = passes.shards(index), passes.plan.shard
    hopeless: frozenset[int] | None = None
    for number in range(1, len(shards) + 1) if alone is None else alone[:1]:
        shard = shards[number - 1]
        prompts = sorted(position for part in shard for position in part)
        measured = finished.load_shard(number, len(shards))
        if measured is None or measured.answers.index.tolist() != prompts:  # another shard lies in its place
            where = f"shard {number} of {len(shards)}, " if len(shards) > 1 else ""
            measured = _measure_shard(passes, shard, provenance, where, hopeless)
            finished.save_shard(number, len(shards), measured)
        if hopeless is None and measured.saliency:
            hopeless = passes.hopeless(measured.saliency, sum(i < passes.plan.samples for i in prompts))
        yield measured


def _measure_shard(
    passes: Passes, shard: Shard, provenance: Provenance, where: str, hopeless: frozenset[int] | None
) -> Measurement:
    answers, activations, experts = passes.forward(shard, where)
    saliency = passes.attribution(passes.targets(answers), where, hopeless)
    prompts, decode = passes.prompts, passes.loaded.tokenizer.decode
    texts = {token: decode(token) for token in np.unique(answers.token).tolist()}
    available = max(prompts.available, len(prompts))
    measured = Measurement(provenance, answers, activations, saliency, prompts.golds, available, texts, experts)
    widths = [sum(ffn.minimum.shape[1] for ffn in measured.ffns(layer)) for layer in passes.layers]
    correlated = min(passes.correlated, max(widths))
    return replace(measured, provenance=msgspec.structs.replace(provenance, redundancy_neurons=correlated))


def _announce_gaps(evidence: Evidence, progress: ProgressReporter) -> None:
    """Say what the reference's answers cannot show, before a candidate is measured."""
    for metric, reason in evidence.lacking.items():
        progress.note(f"{METRICS[metric].title} cannot be measured: {reason}")


def _provenance(passes: Passes, model: str, revision: str | None) -> Provenance:
    """Record the provenance as known before measuring. `redundancy_neurons` is the most that a layer may have."""
    loaded, prompts, plan = passes.loaded, passes.prompts, passes.plan
    return Provenance(
        model=model,
        bits=loaded.bits,
        revision=revision,
        content_hash=loaded.content_hash,
        dtype=loaded.dtype,
        format=loaded.format,
        module_types=loaded.module_types,
        quantization=loaded.quantization,
        quantized_share=loaded.quantized_share,
        outside_text=loaded.outside_text,
        gradient_path=gradient_path(loaded.model, int8_kernels=passes.int8_kernels),
        architecture=type(loaded.model).__name__,
        n_layers=loaded.n_layers,
        width=loaded.width,
        configuration=loaded.configuration,
        encoding_hash=encoding_hash(passes.tokenized.encoded),
        prompt_set=prompts.name,
        prompt_hash=prompts.hash,
        template=prompts.template_used(chat=passes.tokenized.chat),
        readout=plan.readout,
        layers=passes.layers,
        redundancy_neurons=passes.correlated,
        attribution=covering(plan.attribution, plan.samples),
        seed=plan.seed,
        batch_size=plan.batch_size,
        shard=plan.shard,
        device=str(loaded.device),
        libraries=loaded.libraries,
    )


def _positions(prompts: PromptSet, index: Sequence[int] | None) -> list[int]:
    wanted = list(range(len(prompts)) if index is None else index)
    if not wanted or len(set(wanted)) < len(wanted) or not set(wanted) <= set(range(len(prompts))):
        raise ValueError(f"Expected different positions from 0 to {len(prompts) - 1} in `index`, got {wanted[:20]}.")
    return wanted


def _first_of_equal(tokenized: TokenizedPrompts, positions: Sequence[int]) -> list[int]:
    """Select the positions whose tokens no earlier prompt of the set has."""
    distinct = set(tokenized.distinct)
    wanted = [position for position in positions if position in distinct]
    if not wanted:
        raise ValueError("Expected a prompt in `index` that repeats no earlier one of its set, got none.")
    return wanted


def _check_covered(reference: Measurement | None, index: Sequence[int]) -> None:
    missing = [] if reference is None else sorted(set(index) - set(reference.answers.index.tolist()))
    if missing:
        raise MeasurementError(
            f"the reference was not measured on {len(missing)} of {len(index)} prompts (the first is at position "
            f"{missing[0]}): measure it on all of the candidate's prompts first"
        )


def _check_same_encoding(reference: Measurement | None, encoded: Sequence[Sequence[int]], model: str) -> None:
    """Refuse a candidate that encodes the prompts as other tokens: nothing measured could be compared."""
    if reference is not None and encoding_hash(encoded) != reference.provenance.encoding_hash:
        raise MeasurementError(
            f"{model} reads the prompts as other tokens than its reference {reference.provenance.model} does: compare "
            "their tokenizer files, and the chat template that wraps a prompt"
        )


@contextmanager
def _memory_errors(plan: Plan) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise MeasurementError(
            f"out of memory at --quantcheck-batch-size={plan.batch_size} and --quantcheck-attribution-tokens="
            f"{plan.tokens}: take smaller ones, shorter prompts or a larger machine"
        ) from error
