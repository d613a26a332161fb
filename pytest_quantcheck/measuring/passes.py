"""The two passes over a shard: one forward pass for everything that streams, and the attribution."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeVar

import torch

from pytest_quantcheck.analyses.saliency import attributable
from pytest_quantcheck.errors import MeasurementError, QuantcheckError
from pytest_quantcheck.measuring.answers import AnswerCollector
from pytest_quantcheck.measuring.attributing import Attributor
from pytest_quantcheck.measuring.plan import Plan, ProgressReporter
from pytest_quantcheck.measuring.scored import ScoredCollector
from pytest_quantcheck.measuring.shards import Shard, count_for, cut
from pytest_quantcheck.measuring.streams import ExpertStreams, LayerStream, RealTokens, affordable_neurons
from pytest_quantcheck.measuring.tokenized import TokenizedPrompts
from pytest_quantcheck.models.encoding import Batch, batches, collate
from pytest_quantcheck.models.experts import Mixture
from pytest_quantcheck.models.gradients import float32_bytes, float32_gradients, float32_gradients_in_pieces
from pytest_quantcheck.models.greedy import continue_greedily, end_tokens
from pytest_quantcheck.models.loaded import LoadedModel
from pytest_quantcheck.models.memory import usable_memory
from pytest_quantcheck.models.neurons import choose_layers, is_rectified
from pytest_quantcheck.models.placement import fetched_share
from pytest_quantcheck.models.pretrained import context_of
from pytest_quantcheck.models.prompt_cache import PromptCache, new_cache, read_prompts
from pytest_quantcheck.models.scored_logits import scored_logits
from pytest_quantcheck.prompts import PromptSet
from pytest_quantcheck.records import Activations, Answers, Experts, Measurement, Saliency, ScoredTokens

_R = TypeVar("_R")


class Forward(NamedTuple):
    """What the forward pass of a shard gives; `activations` and `experts` are by layer."""

    answers: Answers
    activations: dict[int, Activations]
    experts: dict[int, Experts]
    scored: ScoredTokens | None


@dataclass(frozen=True, eq=False)
class Passes:
    """The passes of one measurement: a model, a tokenized prompt set and a plan."""

    loaded: LoadedModel
    prompts: PromptSet
    plan: Plan
    reference: Measurement | None
    tokenized: TokenizedPrompts
    progress: ProgressReporter

    @property
    def int8_kernels(self) -> bool:
        """Whether attribution goes through LLM.int8()'s own kernels, as in the paper."""
        return self.plan.attribution.method == "paper"

    @property
    def layers(self) -> tuple[int, ...]:
        """The blocks that are measured, ascending."""
        return choose_layers(self.plan.layers, self.loaded.n_layers)

    @cached_property
    def correlated(self) -> int:
        """Most neurons to correlate in a layer: in a candidate those of its reference, whatever its own size."""
        if self.reference is not None:
            return self.reference.provenance.redundancy_neurons
        setting = self.plan.redundancy_neurons
        if setting == "auto":
            return affordable_neurons(self.loaded.neurons.parameters_per_token, len(self.layers))
        return sys.maxsize if setting == "all" else setting

    def shards(self, index: Sequence[int]) -> list[Shard]:
        """Cut the prompts into shards.

        Raises:
            MeasurementError: more shards are asked for than there are batches.
        """
        parts = batches(self.tokenized.encoded, index, self.plan.batch_size, shuffle=self.plan.shuffle)
        count = self.plan.shard[1] if self.plan.shard else count_for(parts, self.plan.shard_size)
        if count > len(parts):
            raise MeasurementError(
                f"expected at most {len(parts)} shards of {self.prompts.name}, got {count}: its {len(index)} inputs "
                f"are {len(parts)} batches of {self.plan.batch_size}, and a shard has whole batches"
            )
        return cut(parts, count)

    def forward(self, shard: Shard, where: str) -> Forward:
        """Run a shard's prompts once, and collect answers, activations and scored tokens.

        The reference continues the prompts, where that is asked for; a candidate reads what the reference wrote.
        `where`: what progress is called before the name of the phase.
        """
        n = sum(map(len, shard))
        collected = self._new_collected(n)
        self.progress.start(f"{where}measuring", n)
        with torch.no_grad():
            for part in shard:
                batch = self._batch(part)
                collected.expect(RealTokens.of(batch))
                with self._watched(collected), self._kernel_errors():
                    read = self._read(batch)
                collected.answers.add(batch, read.logits if isinstance(read, PromptCache) else read)
                if collected.scored is not None:
                    with self._kernel_errors():
                        self._score(collected.scored, batch, read)
                self.progress.advance(len(part))
        self.progress.finish()
        return collected.result()

    def targets(self, answers: Answers) -> dict[int, int]:
        """Choose the token to attribute for each sampled prompt: the reference's answer, or the model's own.

        `answers`: the model's, to the prompts of a shard.
        """
        own = self.reference is None or self.plan.attribution.target == "own"
        source = answers if own or self.reference is None else self.reference.answers
        tokens = dict(zip(source.index.tolist(), source.token.tolist(), strict=True))
        return {i: tokens[i] for i in answers.index.tolist() if i < self.plan.samples}

    def attribution(self, targets: dict[int, int], where: str, hopeless: frozenset[int] | None) -> dict[int, Saliency]:
        """Attribute at every layer where the reference could be attributed.

        `hopeless`: the layers that an earlier shard gave up; None where there was no earlier one.
        """
        if self.plan.attribution.method == "off" or not targets:
            return {}
        with self._in_float32() as in_pieces:
            attributor = Attributor(
                self.loaded, self.tokenized.encoded, self.plan.attribution, tokens=self.plan.tokens, recompute=in_pieces
            )
            layers = [layer for layer in self.layers if self._defined_at(layer) and layer not in (hopeless or ())]
            if not layers:
                return {}
            self.progress.start(f"{where}attributing", len(targets))
            found = attributor.attribute(layers, targets, self.progress, probe=hopeless is None)
            self.progress.finish()
            return found

    @contextmanager
    def _in_float32(self) -> Iterator[bool]:
        """Let the model compute in float32; yield whether in pieces."""
        loaded, kernels = self.loaded, self.int8_kernels
        needed, room = float32_bytes(loaded.model, int8_kernels=kernels), loaded.attribution_memory
        if room is None:
            fits = all(size <= usable_memory(device) for device, size in needed.items() if device.type != "meta")
        else:
            fits = needed.total() <= room
        if fits and not fetched_share(loaded.model):
            with float32_gradients(loaded.model, int8_kernels=kernels):
                yield False
        else:
            with float32_gradients_in_pieces(loaded.model, loaded.neurons.blocks, int8_kernels=kernels):
                yield True

    def _batch(self, part: Sequence[int]) -> Batch:
        return collate(self.tokenized.encoded, part, pad=self.loaded.tokenizer.pad_token_id, device=self.loaded.device)

    @contextmanager
    def _watched(self, collected: _Collected) -> Iterator[None]:
        """Let each layer's activations flow into its stream."""
        neurons = self.loaded.neurons
        with ExitStack() as hooks:
            for layer, stream in collected.streams.items():
                handle = neurons.activation(layer).register_forward_hook(stream.hook)
                hooks.callback(handle.remove)
            for layer, streams in collected.experts.items():
                hooks.enter_context(neurons.mixtures[layer].watch(streams.see, streams.route))
            yield

    @contextmanager
    def _kernel_errors(self) -> Iterator[None]:
        """Say which model a library cannot run.

        Raises:
            MeasurementError: a library cannot run the quantized model here, as a kernel that lacks its shapes.
        """
        try:
            yield
        except (AssertionError, RuntimeError) as error:
            own = self.loaded.quantization is None or isinstance(error, QuantcheckError)
            if own or is_out_of_memory(error):
                raise
            raise MeasurementError(
                f"the model as {self.loaded.bits} cannot be run on {self.loaded.device}: {type(error).__name__}: "
                f"{str(error)[:400]}; gate it at another bit-width, or on another device"
            ) from error

    def _read(self, batch: Batch) -> PromptCache | torch.Tensor:
        """Read a batch once.

        Returns the logits of the answer position, (prompts, vocabulary); with what was read, if tokens follow and the
        model can go on from there.
        """
        model = self.loaded.model
        cache = new_cache(model) if self.plan.continuation else None
        if cache is not None:
            return read_prompts(model, batch, cache)
        logits: torch.Tensor = model(**batch.inputs(), logits_to_keep=1).logits[:, -1]
        return logits

    def _score(self, collector: ScoredCollector, batch: Batch, read: PromptCache | torch.Tensor) -> None:
        """Score the tokens after a batch of prompts.

        They are read after what was kept of the prompts, or with them, once more.
        """
        model, pad = self.loaded.model, self.loaded.tokenizer.pad_token_id
        kept = read if isinstance(read, PromptCache) else None
        if collector.reference is not None:
            written = [collector.reference.after(i) for i in batch.index]
        elif kept is not None:
            written = kept.write(self._most(batch), ends=end_tokens(model), pad=pad)
        else:
            written = continue_greedily(model, batch, self._most(batch), pad=pad)
        if kept is not None:
            parts = kept.scored(written, pad=pad)
        else:
            # the last token is scored and not read
            read_too = zip(batch.index, written, strict=True)
            encoded = {i: [*self.tokenized.encoded[i], *tokens[:-1]] for i, tokens in read_too}
            longer = collate(encoded, batch.index, pad=pad, device=self.loaded.device)
            parts = scored_logits(model, longer, list(map(len, written)))
        collector.add(batch.index, written, parts)

    def _most(self, batch: Batch) -> int:
        """Count the tokens by which a batch's prompts are continued: no further than the model's context."""
        context, most = context_of(self.loaded.model.config), self.plan.continuation
        return most if context is None else min(most, context + 1 - max(batch.lengths))

    def _new_collected(self, n: int) -> _Collected:
        neurons = self.loaded.neurons
        mixed = [layer for layer in self.layers if layer in neurons.mixtures]
        shared = [layer for layer in self.layers if layer not in neurons.mixtures or neurons.activations[layer]]
        return _Collected(
            self._collector(n),
            {layer: self._stream(layer) for layer in shared},
            {layer: self._expert_streams(neurons.mixtures[layer]) for layer in mixed},
            self._scored_collector(n) if self.plan.continuation else None,
        )

    def _stream(self, layer: int) -> LayerStream:
        return LayerStream(
            self.prompts,
            rectified=is_rectified(self.loaded.neurons.activation(layer)),
            seed=self.plan.seed,
            correlated=self.correlated,
        )

    def _expert_streams(self, mixture: Mixture) -> ExpertStreams:
        return ExpertStreams(
            self.prompts,
            mixture.n_experts,
            rectified=is_rectified(mixture.function),
            seed=self.plan.seed,
            correlated=self.correlated,
        )

    def _defined_at(self, layer: int) -> bool:
        if self.reference is None:
            return True
        saliency = self.reference.saliency.get(layer)
        return saliency is not None and attributable(saliency.converged)

    def _scored_collector(self, n: int) -> ScoredCollector:
        told = None if self.reference is None else self.reference.scored
        return ScoredCollector(self.prompts, n, self.plan.continuation, reference=told)

    def _collector(self, n: int) -> AnswerCollector:
        loaded, prompts = self.loaded, self.prompts
        return AnswerCollector(
            prompts,
            loaded.tokenizer.decode,
            n,
            reference=None if self.reference is None else self.reference.answers,
            choices=self.tokenized.choices,
            substring=self.plan.readout == "substring",
        )


@dataclass(frozen=True, eq=False)
class _Collected:
    """Everything collected from the forward pass so far."""

    answers: AnswerCollector
    streams: dict[int, LayerStream]
    experts: dict[int, ExpertStreams]
    scored: ScoredCollector | None

    def expect(self, tokens: RealTokens) -> None:
        for stream in self.streams.values():
            stream.expect(tokens)
        for streams in self.experts.values():
            streams.expect(tokens)

    def result(self) -> Forward:
        return Forward(
            self.answers.result(),
            {layer: _result(layer, stream.result) for layer, stream in self.streams.items()},
            {layer: _result(layer, streams.result) for layer, streams in self.experts.items()},
            None if self.scored is None else self.scored.result(),
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory ran out; torch has no error type for it on a CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


def _result(layer: int, result: Callable[[], _R]) -> _R:
    try:
        return result()
    except MeasurementError as error:
        raise type(error)(f"layer {layer}: {error}") from error
