"""One measurement in shards, each measured by itself: by one process, or by several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Self

import msgspec
import numpy as np

from pytest_quantcheck.analyses.saliency import given_up
from pytest_quantcheck.errors import MeasurementError, TooLittleMemoryError
from pytest_quantcheck.measuring.passes import Passes, is_out_of_memory
from pytest_quantcheck.measuring.plan import NoProgress, Plan, ProgressReporter
from pytest_quantcheck.measuring.shards import Shard
from pytest_quantcheck.measuring.tokenized import TokenizedPrompts, tokenize
from pytest_quantcheck.models.encoding import encoding_hash, token_texts
from pytest_quantcheck.models.gradients import gradient_path
from pytest_quantcheck.models.loaded import LoadedModel
from pytest_quantcheck.models.pretrained import context_of
from pytest_quantcheck.options.attribution import covering
from pytest_quantcheck.prompts import PromptSet
from pytest_quantcheck.records import Measurement, Provenance


@dataclass(frozen=True, eq=False)
class ShardedMeasurement:
    """A measurement that is checked, cut into shards and not made yet.

    `provenance`: as known before measuring; `shards`: all of them, the first is number 1.
    """

    passes: Passes
    provenance: Provenance
    shards: tuple[Shard, ...]

    @classmethod
    def of(
        cls,
        loaded: LoadedModel,
        prompts: PromptSet,
        plan: Plan,
        *,
        model: str,
        revision: str | None = None,
        reference: Measurement | None = None,
        index: Sequence[int] | None = None,
        progress: ProgressReporter | None = None,
    ) -> Self:
        """Check what is asked for, and cut it into shards; arguments and errors are those of `measure`."""
        positions = _positions(prompts, index)
        context = context_of(loaded.model.config)
        tokenized = tokenize(loaded.tokenizer, prompts, context=context, readout=plan.readout)
        _check_same_encoding(reference, tokenized.encoded, model)
        wanted = _first_of_equal(tokenized, positions)
        _check_covered(reference, wanted)
        passes = Passes(loaded, prompts, plan, reference, tokenized, progress or NoProgress())
        return cls(passes, _provenance(passes, model, revision), tuple(passes.shards(wanted)))

    @property
    def numbers(self) -> Sequence[int]:
        """The shards to measure: all, or the one that is asked for alone."""
        alone = self.passes.plan.shard
        return range(1, len(self.shards) + 1) if alone is None else alone[:1]

    def prompts(self, number: int) -> list[int]:
        """List a shard's positions in the prompt set, ascending."""
        return sorted(position for batch in self.shards[number - 1] for position in batch)

    def measure(self, number: int, hopeless: frozenset[int] | None) -> Measurement:
        """Measure a shard.

        `hopeless`: the layers at which an earlier shard gave up attribution; None where no earlier one attributed.

        Raises:
            MeasurementError: non-finite logits or activations, or not enough memory.
        """
        return self.attribute(number, self.forward(number), hopeless)

    def forward(self, number: int) -> Measurement:
        """Measure a shard up to attribution; errors are those of `measure`."""
        passes, prompts = self.passes, self.passes.prompts
        with _memory_errors(passes.plan):
            answers, activations, experts, scored = passes.forward(self.shards[number - 1], self._where(number))
        told = [answers.token, *((scored.token, scored.top) if scored else ())]
        texts = token_texts(passes.loaded.tokenizer, np.unique(np.concatenate(told)).tolist())
        available = max(prompts.available, len(prompts))
        measured = Measurement(
            self.provenance, answers, activations, {}, prompts.golds, available, texts, experts, scored
        )
        widths = [sum(ffn.minimum.shape[1] for ffn in measured.ffns(layer)) for layer in passes.layers]
        correlated = min(passes.correlated, max(widths))
        return replace(measured, provenance=msgspec.structs.replace(self.provenance, redundancy_neurons=correlated))

    def attribute(self, number: int, forward: Measurement, hopeless: frozenset[int] | None) -> Measurement:
        """Add attribution to what `forward` measured of a shard; see `measure`."""
        targets = self.passes.targets(forward.answers)
        with _memory_errors(self.passes.plan):
            return replace(forward, saliency=self.passes.attribution(targets, self._where(number), hopeless))

    def _where(self, number: int) -> str:
        """Name a shard, before the name of a phase; nothing where it is the only one."""
        return f"shard {number} of {len(self.shards)}, " if len(self.shards) > 1 else ""


def given_up_by(shard: Measurement, plan: Plan) -> frozenset[int] | None:
    """Find the layers at which a shard gave up attribution.

    `shard`: the first that attributed; None is returned for one that attributed nothing.
    """
    if not shard.saliency:
        return None
    planned = sum(position < plan.samples for position in shard.answers.index.tolist())
    layers = () if plan.attribution.nodes else shard.saliency
    return frozenset(layer for layer in layers if given_up(shard.saliency[layer].converged, planned))


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
        continuation=plan.continuation,
        seed=plan.seed,
        batch_size=plan.batch_size,
        shard=plan.shard,
        device=loaded.devices,
        libraries=loaded.libraries,
    )


@contextmanager
def _memory_errors(plan: Plan) -> Iterator[None]:
    """Turn lack of memory into an error that says what needs less."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TooLittleMemoryError(
            f"out of memory at --quantcheck-batch-size={plan.batch_size} and --quantcheck-attribution-tokens="
            f"{plan.tokens}: take smaller ones, shorter prompts or a larger machine"
        ) from error
