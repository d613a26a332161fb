"""See a model's neurons in a forward pass, or replace them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from torch import nn

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.models.encoding import Batch
from pytest_quantcheck.models.neurons import Neurons


def run_with_neurons(
    model: nn.Module, neurons: Neurons, layers: Sequence[int], batch: Batch
) -> tuple[dict[int, torch.Tensor], dict[int, Route], torch.Tensor]:
    """Run the model once.

    Returns these layers' neurons, (prompts, tokens, d); of mixtures where tokens went; and the logits at the answer
    position, (prompts, vocabulary). In a mixture d is that of each token's k experts, one after another, and then of
    the FFN that every token passes.

    Raises:
        ModelError: an activation module did not run exactly once on every token.
    """
    seen: dict[int, _Seen] = {layer: _Seen(batch) for layer in layers}
    with torch.no_grad(), ExitStack() as hooks:
        for layer, kept in seen.items():
            neurons.check(layer)
            if function := neurons.activations[layer]:
                hooks.callback(function.register_forward_hook(kept.add).remove)
            if layer in neurons.mixtures:
                hooks.enter_context(neurons.mixtures[layer].watch(kept.add_expert, kept.route))
        logits = model(**batch.inputs(), logits_to_keep=1).logits[:, -1]
    routes = {
        layer: Route(kept.chosen, kept.width, neurons.mixtures[layer].n_experts)
        for layer, kept in seen.items()
        if kept.chosen is not None
    }
    return {layer: kept.neurons() for layer, kept in seen.items()}, routes, logits


class Route(NamedTuple):
    """Where a mixture sends the tokens of a batch.

    `chosen` (prompts, tokens, k) int64: the experts of each token; `width`: neurons of an expert; `experts`: their
    number.
    """

    chosen: torch.Tensor
    width: int
    experts: int

    @property
    def columns(self) -> int:
        """Number of neurons of a token's experts."""
        return self.chosen.shape[-1] * self.width

    def spread(self, values: torch.Tensor, row: int) -> torch.Tensor:
        """Spread a prompt's neurons (tokens, d) over those of all experts.

        They go expert by expert; those that every token passes follow.
        """
        spread = values.new_zeros(len(values), self.experts, self.width)
        routed = values[:, : self.columns].reshape(len(values), -1, self.width)
        spread[torch.arange(len(values), device=values.device)[:, None], self.chosen[row]] = routed
        return torch.cat([spread.flatten(start_dim=1), values[:, self.columns :]], dim=1)


class _Seen:
    """The neurons of one layer and batch, as the model computes them."""

    def __init__(self, batch: Batch) -> None:
        self._shape = tuple(batch.input_ids.shape)
        self._outputs: list[torch.Tensor] = []
        self._routed: torch.Tensor | None = None
        self.chosen: torch.Tensor | None = None

    def add(self, _module: nn.Module, _args: object, output: torch.Tensor) -> None:
        self._outputs.append(output)

    def route(self, chosen: torch.Tensor) -> None:
        self.chosen = chosen.reshape(*self._shape, -1)

    def add_expert(self, _expert: int, tokens: torch.Tensor, place: torch.Tensor, neurons: torch.Tensor) -> None:
        assert self.chosen is not None
        if self._routed is None:
            self._routed = neurons.new_zeros(math.prod(self._shape), self.chosen.shape[-1], neurons.shape[-1])
        self._routed[tokens, place] = neurons

    def neurons(self) -> torch.Tensor:
        parts = [] if self._routed is None else [self._routed.reshape(*self._shape, -1)]
        if self._outputs or not parts:
            parts.append(_by_prompt(self._outputs, self._shape))
        return torch.cat(parts, dim=-1)

    @property
    def width(self) -> int:
        return 0 if self._routed is None else self._routed.shape[-1]


@contextmanager
def replace_neurons(neurons: Neurons, layer: int, values: torch.Tensor) -> Iterator[None]:
    """Replace a layer's neurons, keeping their dtype.

    `values` is (n, tokens, d), laid out as `run_with_neurons` does.
    """
    mixture, function = neurons.mixtures.get(layer), neurons.activations[layer]
    with ExitStack() as hooks:
        if mixture is not None:
            flat = values.flatten(end_dim=-2)

            def of_expert(_expert: int, tokens: torch.Tensor, place: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
                width = own.shape[-1]
                columns = place[:, None] * width + torch.arange(width, device=place.device)
                return flat[tokens[:, None], columns].to(own.dtype)

            hooks.enter_context(mixture.watch(of_expert))
        if function is not None:
            hooks.enter_context(replace_output(function, values))
        yield


@contextmanager
def replace_output(module: nn.Module, output: torch.Tensor) -> Iterator[None]:
    """Replace a module's output, keeping its shape and dtype.

    The last neurons of `output` take its place.
    """

    def replaced(_module: nn.Module, _args: object, own: torch.Tensor) -> torch.Tensor:
        return output[..., -own.shape[-1] :].reshape(own.shape).to(own.dtype)

    handle = module.register_forward_hook(replaced)
    try:
        yield
    finally:
        handle.remove()


def _by_prompt(seen: list[torch.Tensor], shape: tuple[int, ...]) -> torch.Tensor:
    """Shape the activation module's output as (prompts, tokens, neurons)."""
    if len(seen) != 1 or seen[0].shape[:-1].numel() != math.prod(shape):
        raise ModelError(
            f"expected the FFN's activation module to run once, on every token of {shape}, and "
            f"got outputs {[tuple(output.shape) for output in seen]}; point at another with --quantcheck-neurons"
        )
    return seen[0].reshape(*shape, -1)
