"""Measuring: one model on one prompt set is checked, run shard by shard in two passes, and recorded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import msgspec

from pytest_quantcheck.analyses.reference_evidence import evidence_of
from pytest_quantcheck.measuring.merging import merge_in_order
from pytest_quantcheck.measuring.plan import NoProgress, Plan, ProgressReporter
from pytest_quantcheck.measuring.sharded import ShardedMeasurement, given_up_by
from pytest_quantcheck.measuring.shards import FinishedShards, NothingFinished, kept_shard
from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.models.loaded import LoadedModel
from pytest_quantcheck.models.placement import fetched_share
from pytest_quantcheck.prompts import PromptSet
from pytest_quantcheck.records import Evidence, Measurement, Provenance

__all__ = ["NoProgress", "Plan", "ProgressReporter", "measure", "merged"]


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
    sharded = ShardedMeasurement.of(
        loaded, prompts, plan, model=model, revision=revision, reference=reference, index=index, progress=progress
    )
    if fetched := fetched_share(loaded.model):
        sharded.passes.progress.note(
            f"{fetched:.0%} of its weights do not fit and are fetched whenever a layer is called"
        )
    shards = _each_shard(sharded, finished or NothingFinished())
    return merged(shards, sharded.provenance, announce=progress if reference is None else None)


def _each_shard(sharded: ShardedMeasurement, finished: FinishedShards) -> Iterator[Measurement]:
    """Yield each shard's measurement, taken up or made now.

    At which layers attribution is given up is decided by the first shard that attributes, and handed on.
    """
    hopeless: frozenset[int] | None = None
    for number in sharded.numbers:
        measured = kept_shard(finished, number, len(sharded.shards), sharded.prompts(number))
        if measured is None:
            measured = sharded.measure(number, hopeless)
            finished.save_shard(number, len(sharded.shards), measured)
        if hopeless is None:
            hopeless = given_up_by(measured, sharded.passes.plan)
        yield measured


def merged(shards: Iterable[Measurement], provenance: Provenance, *, announce: ProgressReporter | None) -> Measurement:
    """Merge shards in the order in which they come.

    Args:
        shards: one or more.
        provenance: as known before measuring. The names of model and prompt set are taken from it: a shard that was
            measured earlier may have others.
        announce: told what the answers of a reference, measured whole, cannot show; None for a candidate.
    """
    whole = merge_in_order(shards)
    if announce and provenance.shard is None:
        _announce_gaps(evidence_of(whole.answers, whole.golds, whole.available), announce)
    names = {name: getattr(provenance, name) for name in ("model", "revision", "prompt_set")}
    return replace(whole, provenance=msgspec.structs.replace(whole.provenance, **names))


def _announce_gaps(evidence: Evidence, progress: ProgressReporter) -> None:
    """Say what the reference's answers cannot show, before a candidate is measured."""
    for metric, reason in evidence.lacking.items():
        progress.note(f"{METRICS[metric].title} cannot be measured: {reason}")
