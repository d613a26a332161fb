"""One model on one prompt set: a forward pass for all that streams, an attribution pass for saliency."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property

import msgspec
import numpy as np
import torch

from ..analyses.saliency import attributable
from ..errors import MeasurementError, PromptError
from ..models.encoding import Batch, batches, collate, encode, encoding_hash, wrapped
from ..models.gradients import float32_gradients, gradient_path
from ..models.loading import LoadedModel
from ..models.neurons import choose_layers
from ..options.attribution import covering
from ..prompts import PromptSet
from ..records import Activations, Answers, Measurement, Provenance, Saliency
from ..storage import Checkpoint
from .answers import AnswerCollector, choice_tokens
from .attributing import Attributor
from .plan import Plan, Progress, Silent
from .resuming import Arrays, Stage, flat, stages_of, under
from .streams import LayerStream, RealTokens, affordable_neurons

__all__ = ["Plan", "Progress", "Silent", "measure"]


def measure(
    loaded: LoadedModel,
    prompts: PromptSet,
    plan: Plan,
    *,
    model: str,
    revision: str | None = None,
    reference: Measurement | None = None,
    index: Sequence[int] | None = None,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> Measurement:
    """Measure what a model does on a prompt set.

    Args:
        loaded: the model.
        prompts: the prompt set.
        plan: what to measure.
        model: the model's name, for the record.
        revision: its revision, for the record.
        reference: the reference's measurement when `loaded` is a candidate: its answers are what is attributed,
            and the tokens it thinks probable are those that are compared.
        index: positions of the prompts to measure, a shard; all by default.
        progress: who is told how far it is.
        checkpoint: where what is done is kept, and taken up again when an earlier run died: the measurement is the
            same to the last bit, however often that happened. The caller clears it once the measurement is safe.

    Raises:
        MeasurementError: non-finite logits or activations, not enough memory, or a reference that was not
            measured on these prompts, or reads them as other tokens.
        ModelError: a layer that the model does not have.
        PromptError: a prompt that the model cannot read, or a chat template asked for and not there.
        StorageError: a checkpoint that cannot be written, is damaged, or belongs to another measurement.
        ValueError: an `index` that is empty, repeats a position or goes beyond the prompt set.
    """
    progress = progress or Silent()
    wanted = _positions(prompts, index)
    _check_covered(reference, wanted)
    chat = _chat(loaded, prompts)
    encoded = encode(loaded.tokenizer, prompts.texts, chat=chat, max_length=_context(loaded))
    _check_read_alike(reference, encoded, model)
    run = _Run(loaded, prompts, plan, reference, chat, encoded, progress)
    provenance = run.provenance(model, revision)
    stages = stages_of(checkpoint, provenance, plan, wanted, reference)
    with _memory(plan):
        answers, activations = run.forward_pass(wanted, stages("forward"))
        saliency = run.attribution_pass(run.targets(answers, wanted), stages("attribution"))
    correlated = max(len(layer.correlated) for layer in activations.values())
    provenance = msgspec.structs.replace(provenance, redundancy_neurons=correlated)
    texts = {token: loaded.tokenizer.decode(token) for token in np.unique(answers.token).tolist()}
    return Measurement(provenance=provenance, answers=answers, activations=activations, saliency=saliency, texts=texts)


@dataclass(frozen=True, eq=False)
class _Run:
    """One measurement under way."""

    loaded: LoadedModel
    prompts: PromptSet
    plan: Plan
    reference: Measurement | None
    chat: bool
    encoded: Sequence[Sequence[int]]
    progress: Progress

    @property
    def _int8_kernels(self) -> bool:
        """The paper attributed through LLM.int8()'s own kernels."""
        return self.plan.attribution.method == "paper"

    @property
    def layers(self) -> tuple[int, ...]:
        return choose_layers(self.plan.layers, self.loaded.n_layers)

    def forward_pass(self, index: Sequence[int], stage: Stage) -> tuple[Answers, dict[int, Activations]]:
        """Run the prompts once; everything that streams takes what it needs from that."""
        loaded = self.loaded
        taken = _Taken(self._collector(len(index)), {layer: self._stream(layer) for layer in self.layers})
        taken.restore(stage.load(), loaded.device)
        parts = batches(self.encoded, index, self.plan.batch_size, shuffle=self.plan.shuffle)
        before = taken.answers.seen
        left = [part for part in parts if not before.issuperset(part)]
        self.progress.start("measuring", len(index), len(before))
        with torch.no_grad(), ExitStack() as hooks:
            if not left:  # some quantized layers pack their weights when they first run, and gradients go another way
                self._logits(self._batch(parts[0]))
            for layer, stream in taken.streams.items():
                handle = loaded.neurons.activation(layer).register_forward_hook(stream.hook)
                hooks.callback(handle.remove)
            for part in left:
                batch = self._batch(part)
                tokens = RealTokens.of(batch)
                for stream in taken.streams.values():
                    stream.expect(tokens)
                taken.answers.add(batch, self._logits(batch))
                self.progress.advance(len(part))
                stage.save(taken.state, finished=part is parts[-1])
        self.progress.finish()
        return taken.answers.result(), {layer: _result(layer, stream) for layer, stream in taken.streams.items()}

    def _batch(self, part: Sequence[int]) -> Batch:
        return collate(self.encoded, part, pad=self.loaded.tokenizer.pad_token_id, device=self.loaded.device)

    def _logits(self, batch: Batch) -> torch.Tensor:
        """Those of the answer position, (prompts, vocabulary)."""
        logits: torch.Tensor = self.loaded.model(**batch.inputs(), logits_to_keep=1).logits[:, -1]
        return logits

    def _stream(self, layer: int) -> LayerStream:
        return LayerStream(
            self.prompts,
            rectified=self.loaded.neurons.rectified(layer),
            seed=self.plan.seed,
            correlated=self._correlated,
        )

    @cached_property
    def _correlated(self) -> int:
        """Most neurons to correlate in a layer: in a candidate those of its reference, whatever its own size."""
        if self.reference is not None:
            return self.reference.provenance.redundancy_neurons
        asked = self.plan.redundancy_neurons
        if asked == "auto":
            blocks = self.loaded.neurons.blocks
            return affordable_neurons(sum(p.numel() for b in blocks for p in b.parameters()), len(self.layers))
        return sys.maxsize if asked == "all" else asked

    def targets(self, answers: Answers, index: Sequence[int]) -> dict[int, int]:
        """The token to attribute for each prompt of the attribution's sample: the reference's answer, or its own."""
        own = self.reference is None or self.plan.attribution.target == "own"
        source = answers if own or self.reference is None else self.reference.answers
        tokens = dict(zip(source.index.tolist(), source.token.tolist(), strict=True))
        return {i: tokens[i] for i in index if i < self.plan.samples}

    def attribution_pass(self, targets: dict[int, int], stage: Stage) -> dict[int, Saliency]:
        """Attribute at every layer where the reference, if there is one, could be attributed."""
        if self.plan.attribution.method == "off" or not targets:
            return {}
        attributor = Attributor(self.loaded, self.encoded, self.plan.attribution, tokens=self.plan.tokens)
        with float32_gradients(self.loaded.model, int8_kernels=self._int8_kernels):
            layers = [layer for layer in self.layers if self._defined_at(layer)]
            return attributor.attribute(layers, targets, self.progress, stage) if layers else {}

    def _defined_at(self, layer: int) -> bool:
        if self.reference is None:
            return True
        found = self.reference.saliency.get(layer)
        return found is not None and attributable(found.converged)

    def provenance(self, model: str, revision: str | None) -> Provenance:
        """What is known before measuring: `redundancy_neurons` are the most that a layer may have."""
        loaded, prompts, plan = self.loaded, self.prompts, self.plan
        return Provenance(
            model=model,
            bits=loaded.bits,
            revision=revision,
            content_hash=loaded.content_hash,
            dtype=loaded.dtype,
            format=loaded.format,
            module_types=loaded.module_types,
            quantization=loaded.quantization,
            gradient_path=gradient_path(loaded.model, int8_kernels=self._int8_kernels),
            architecture=type(loaded.model).__name__,
            n_layers=loaded.n_layers,
            width=loaded.width,
            vocabulary_hash=loaded.vocabulary_hash,
            chat_template_hash=loaded.chat_template_hash,
            encoding_hash=encoding_hash(self.encoded),
            prompt_set=prompts.name,
            prompt_hash=prompts.hash,
            template=prompts.template_used(chat=self.chat),
            readout=plan.readout,
            layers=self.layers,
            redundancy_neurons=self._correlated,
            attribution=covering(plan.attribution, plan.samples),
            seed=plan.seed,
            batch_size=plan.batch_size,
            device=str(loaded.device),
            libraries=loaded.libraries,
        )

    def _collector(self, n: int) -> AnswerCollector:
        loaded, prompts = self.loaded, self.prompts
        choices = None
        if self.plan.readout == "choices":
            (text,) = wrapped(loaded.tokenizer, prompts.texts[:1], chat=self.chat)
            choices = choice_tokens(loaded.tokenizer, prompts, text, chat=self.chat)
        return AnswerCollector(
            prompts,
            loaded.tokenizer.decode,
            n,
            reference=None if self.reference is None else self.reference.answers,
            choices=choices,
            substring=self.plan.readout == "substring",
        )


@dataclass(frozen=True, eq=False)
class _Taken:
    """What was taken from the forward pass so far."""

    answers: AnswerCollector
    streams: dict[int, LayerStream]

    def state(self) -> Arrays:
        return flat(
            {"answers": self.answers.state()} | {f"layers/{n}": stream.state() for n, stream in self.streams.items()}
        )

    def restore(self, state: Arrays | None, device: torch.device) -> None:
        if state is None:
            return
        self.answers.restore(under(state, "answers"), device)
        for layer, stream in self.streams.items():
            stream.restore(under(state, f"layers/{layer}"), device)


def _positions(prompts: PromptSet, index: Sequence[int] | None) -> list[int]:
    wanted = list(range(len(prompts)) if index is None else index)
    if not wanted or len(set(wanted)) < len(wanted) or not set(wanted) <= set(range(len(prompts))):
        raise ValueError(f"Expected different positions from 0 to {len(prompts) - 1} in `index`, got {wanted[:20]}.")
    return wanted


def _check_covered(reference: Measurement | None, index: Sequence[int]) -> None:
    missing = [] if reference is None else sorted(set(index) - set(reference.answers.index.tolist()))
    if missing:
        raise MeasurementError(
            f"the reference was not measured on {len(missing)} of {len(index)} prompts (the first is at position "
            f"{missing[0]}): measure it on all of the candidate's prompts first"
        )


def _check_read_alike(reference: Measurement | None, encoded: Sequence[Sequence[int]], model: str) -> None:
    """The same text must be the same tokens to both: nothing else that is measured could be compared."""
    if reference is not None and encoding_hash(encoded) != reference.provenance.encoding_hash:
        raise MeasurementError(
            f"{model} reads the prompts as other tokens than its reference {reference.provenance.model} does: compare "
            "their tokenizer files, and the chat template that wraps a prompt"
        )


def _chat(loaded: LoadedModel, prompts: PromptSet) -> bool:
    if prompts.chat and not loaded.chat:
        raise PromptError(
            f"{prompts.name} asks for the chat template (template {prompts.template}), and this model's tokenizer has "
            "none: take --quantcheck-template=raw or a format string"
        )
    return loaded.chat if prompts.chat is None else prompts.chat


def _result(layer: int, stream: LayerStream) -> Activations:
    try:
        return stream.result()
    except MeasurementError as error:
        raise type(error)(f"layer {layer}: {error}") from error


def _context(loaded: LoadedModel) -> int | None:
    length: int | None = getattr(loaded.model.config, "max_position_embeddings", None)
    return length


@contextmanager
def _memory(plan: Plan) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _out_of_memory(error):
            raise
        raise MeasurementError(
            f"out of memory at --quantcheck-batch-size={plan.batch_size} and --quantcheck-attribution-tokens="
            f"{plan.tokens}: take smaller ones, shorter prompts or a larger machine"
        ) from error


def _out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """On a CPU torch has no error of its own for it."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)
