"""From one layer's neurons to the log-probability of an answer, running no more of the model than that needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..errors import ModelError
from .encoding import Batch
from .neurons import Neurons, head_logits

_AGREE = 0.01
"""Nats by which the shortened path may differ from the model's own answer. On the same prompts it differs by the
rounding of float32, through LLM.int8() too; a forgotten norm, cap or scale moves it by far more."""


@dataclass(frozen=True, eq=False)
class Passage:
    """What one forward pass left behind for one layer.

    `neurons`: output of the layer's activation function; `calls`: what its block and those above were called with;
    `log_probs` (prompts,): log-probability of the target tokens.
    """

    neurons: torch.Tensor
    calls: dict[int, tuple[tuple[Any, ...], dict[str, Any]]]
    log_probs: torch.Tensor


class Continuation:
    """The function from one layer's neurons to the target's log-probability, for one batch of prompts.

    Everything below the layer's block is fixed by the prompts and computed once. The block itself, the blocks
    above it, the tail and the output head (at the answer position alone) run for each evaluation. Where the
    layout is not known, or the shortened path does not give the model's own answer, the whole model runs.
    """

    def __init__(self, model: nn.Module, neurons: Neurons, layer: int, batch: Batch, target: torch.Tensor) -> None:
        """Run the model once on the prompts; `target` (prompts,) int64 holds the attributed token of each."""
        self._model, self._neurons, self._layer, self._batch, self._target = model, neurons, layer, batch, target
        with torch.no_grad():
            self._passage = self._run(batch)
            self.shortened = neurons.tail is not None
            self.shortened = self.shortened and self._agrees()

    @property
    def activations(self) -> torch.Tensor:
        """This layer's neurons on the prompts, (prompts, tokens, neurons)."""
        return self._passage.neurons

    def baseline_activations(self) -> torch.Tensor:
        """This layer's neurons on sequences of token id 0 of the same lengths."""
        zeros = Batch(
            self._batch.index,
            self._batch.lengths,
            torch.zeros_like(self._batch.input_ids),
            self._batch.attention_mask,
            self._batch.position_ids,
        )
        with torch.no_grad():
            return self._run(zeros).neurons

    def __call__(self, neurons: torch.Tensor) -> torch.Tensor:
        """Log-probability (copies * prompts,) of the targets, given neurons (copies * prompts, tokens, d).

        The rows hold whole copies of the batch one after another.
        """
        copies = neurons.shape[0] // self.activations.shape[0]
        logits = self._above(neurons, copies) if self.shortened else self._whole(neurons, copies)
        return self._log_prob(logits, copies)

    def _agrees(self) -> bool:
        """Two copies of the batch, as what must be repeated is part of the question."""
        difference = self(self.activations.repeat(2, 1, 1)) - self._passage.log_probs.repeat(2)
        return bool((difference.abs() < _AGREE).all())

    def _run(self, batch: Batch) -> Passage:
        calls: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        seen: list[torch.Tensor] = []
        handles = [
            block.register_forward_pre_hook(_remember(calls, number), with_kwargs=True)
            for number, block in enumerate(self._neurons.blocks)
            if number >= self._layer
        ]
        activation = self._neurons.activation(self._layer)
        handles.append(activation.register_forward_hook(lambda _m, _a, output: seen.append(output)))
        try:
            logits = self._model(**batch.inputs(), logits_to_keep=1).logits[:, -1]
        finally:
            for handle in handles:
                handle.remove()
        return Passage(_by_prompt(seen, batch), calls, self._log_prob(logits, 1))

    def _above(self, neurons: torch.Tensor, copies: int) -> torch.Tensor:
        hidden: torch.Tensor | None = None
        with replaced(self._neurons.activation(self._layer), neurons):
            for number in range(self._layer, len(self._neurons.blocks)):
                args, kwargs = (_repeat(part, copies, self._rows) for part in self._passage.calls[number])
                hidden = _hidden(_call(self._neurons.blocks[number], args, kwargs, hidden))
        assert hidden is not None
        answer = hidden[:, -1]
        for module in self._neurons.tail or ():
            answer = module(answer)
        return head_logits(self._model, answer)

    def _whole(self, neurons: torch.Tensor, copies: int) -> torch.Tensor:
        inputs = _repeat(self._batch.inputs(), copies, self._rows)
        with replaced(self._neurons.activation(self._layer), neurons):
            logits: torch.Tensor = self._model(**inputs, logits_to_keep=1).logits[:, -1]
        return logits

    @property
    def _rows(self) -> int:
        return self._batch.input_ids.shape[0]

    def _log_prob(self, logits: torch.Tensor, copies: int) -> torch.Tensor:
        target = self._target.repeat(copies)[:, None]
        return logits.float().log_softmax(dim=-1).gather(1, target)[:, 0]


@contextmanager
def replaced(module: nn.Module, output: torch.Tensor) -> Iterator[None]:
    """Let a module answer with `output`, in the shape and dtype that it would have answered in."""
    handle = module.register_forward_hook(lambda _m, _a, own: output.reshape(own.shape).to(own.dtype))
    try:
        yield
    finally:
        handle.remove()


def _by_prompt(seen: list[torch.Tensor], batch: Batch) -> torch.Tensor:
    """What the activation module gave, (prompts, tokens, neurons)."""
    if len(seen) != 1 or seen[0].shape[:-1].numel() != batch.input_ids.numel():
        raise ModelError(
            f"expected the FFN's activation module to run once, on every token of {tuple(batch.input_ids.shape)}, and "
            f"got outputs {[tuple(output.shape) for output in seen]}; point at another with --quantcheck-neurons"
        )
    return seen[0].reshape(*batch.input_ids.shape, -1)


def _remember(
    calls: dict[int, tuple[tuple[Any, ...], dict[str, Any]]], number: int
) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls[number] = (args, kwargs)

    return hook


def _call(block: nn.Module, args: Any, kwargs: Any, hidden: torch.Tensor | None) -> Any:
    """Call a block as the model did, with the hidden states of the block below instead of the remembered ones."""
    if hidden is None:
        return block(*args, **kwargs)
    if args:
        return block(hidden, *args[1:], **kwargs)
    return block(**{**kwargs, "hidden_states": hidden})


def _hidden(output: Any) -> torch.Tensor:
    first: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return first


def _repeat(value: Any, copies: int, rows: int) -> Any:
    """Repeat every tensor that has one row for each prompt; one that holds for all prompts stays."""
    if isinstance(value, torch.Tensor):
        per_prompt = value.dim() > 1 and value.shape[0] == rows
        return value.repeat(copies, *[1] * (value.dim() - 1)) if per_prompt else value
    if isinstance(value, dict):
        return {key: _repeat(item, copies, rows) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_repeat(item, copies, rows) for item in value)
    return value
