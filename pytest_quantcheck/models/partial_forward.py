"""Run only the part of a model between neurons and answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pytest_quantcheck.models.encoding import Batch
from pytest_quantcheck.models.gradients import all_recomputed, recomputed
from pytest_quantcheck.models.neurons import Neurons, head_logits
from pytest_quantcheck.models.watching import replace_neurons, run_with_neurons

_AFFINE = 1e-4
"""Largest deviation of a block's output from the straight line between its ends, as a share of the line's length. A
norm after the neurons, or the rounding of LLM.int8(), deviates far more."""

_RIGHT = 0.01
"""Nats by which a shortened path may differ from the model's own answer. It differs by float32 rounding only, with
LLM.int8() too; an omitted norm, cap or scale moves it by far more."""

_ROUNDING = 1e-6
"""Deviation that float32 adds, as a share of the output itself."""


@dataclass(frozen=True, eq=False)
class IntegrationPath:
    """A straight path of one layer's neurons, for evaluation.

    Evaluation starts at coordinates: the neurons, or the output of their block.

    `start` and `end` (prompts, positions, c): coordinates at the baseline and on the prompts. `log_probs` maps
    coordinates (n, positions, c) and the batch's row of each, (n,) int64, to the log-probability (n,) of the row's
    target. `pull_back` maps a gradient (prompts, positions, c), averaged over the path, to the gradient with respect to
    the neurons, (prompts, tokens, d). `whole`: each evaluation runs the whole model.
    """

    start: torch.Tensor
    end: torch.Tensor
    log_probs: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    pull_back: Callable[[torch.Tensor], torch.Tensor] = lambda gradient: gradient
    whole: bool = False


class PartialForward:
    """A forward pass of a batch, kept for evaluations of its layers.

    Everything before a layer's block depends on the prompts alone and is computed here, once for all layers. An
    evaluation runs the blocks from there on, and at the answer position only the tail and the output head.

    Args:
        model: a causal language model.
        neurons: where its neurons are.
        layers: the layers at which evaluations start.
        batch: the prompts.
        target: (prompts,) int64, the token of each prompt whose log-probability is evaluated.
        recompute: let autograd keep of most blocks what they are called with alone, and run them again in the backward
            pass. A block that something is hooked into is kept: the layer's own, and the last.
    """

    def __init__(
        self,
        model: nn.Module,
        neurons: Neurons,
        layers: Sequence[int],
        batch: Batch,
        target: torch.Tensor,
        *,
        recompute: bool = False,
    ) -> None:
        self._recompute = recompute
        self._model, self._neurons, self._batch, self._target = model, neurons, batch, target
        self._calls: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self._outputs: dict[int, torch.Tensor] = {}
        with torch.no_grad(), ExitStack() as hooks:
            # keep what each block from the first layer on is called with: evaluations call it again
            for number in range(min(layers), len(neurons.blocks)):
                handle = neurons.blocks[number].register_forward_pre_hook(self._remember_call(number), with_kwargs=True)
                hooks.callback(handle.remove)
            # keep the output of each layer's block: a path through that output ends there
            for layer in layers:
                handle = neurons.blocks[layer].register_forward_hook(self._remember_output(layer))
                hooks.callback(handle.remove)
            # one pass of the whole model, for all layers
            self.neurons, self.routes, logits = run_with_neurons(model, neurons, layers, batch)
        self.real, self.log_probs = batch.real, self._target_log_probs(logits, self._every_row)

    def start(self, layer: int, baseline: torch.Tensor | None) -> torch.Tensor:
        """Make the start of the path, (prompts, tokens, d).

        It is `baseline` (longest, d) at each prompt's tokens, or zero without one. A baseline of the longest prompt
        serves shorter ones too, because no token depends on later ones. Padding keeps its values. Routed experts start
        at zero always: the baseline's tokens went to others.
        """
        if baseline is None:
            return torch.zeros_like(self.neurons[layer])
        start = self.neurons[layer].clone()
        for row, length in enumerate(self._batch.lengths):
            start[row, start.shape[1] - length :] = baseline[:length]
        if layer in self.routes:
            start[..., : self.routes[layer].columns] = 0
        return start

    def each_prompt(self, layer: int, attributions: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield each prompt's attributions by neuron, and which count.

        Both are (1, tokens, d), the second is bool: of a mixture's experts a token counts for those it is routed to.
        One prompt at a time bounds the memory: a mixture has many neurons.
        """
        route = self.routes.get(layer)
        for row, real in enumerate(self.real.to(attributions.device)):
            values, counts = attributions[row], real[:, None].expand(-1, attributions.shape[-1])
            if route is not None:
                values, counts = (route.spread(part, row) for part in (values, counts))
            yield values[None], counts[None]

    def paths(self, layer: int, start: torch.Tensor) -> Iterator[IntegrationPath]:
        """Yield right paths from `start` to this layer's neurons, the cheapest first.

        A path is right if its end gives the model's own answer; the last, through the whole model, always does.
        """
        end = self.neurons[layer]

        def from_block(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            return self._target_log_probs(self._above(self._block(layer, x, rows), layer, rows), rows).to(x.device)

        def whole_model(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            return self._target_log_probs(self._whole(layer, x, rows), rows).to(x.device)

        if self._neurons.tail is not None:  # else it is not known what follows the blocks
            shortened: tuple[Callable[[], IntegrationPath | None], ...] = (
                lambda: self._after_block(layer, start, end),  # each evaluation runs the blocks above the layer's
                lambda: IntegrationPath(start, end, from_block),  # and the layer's own
            )
            yield from filter(None, map(self._if_right, shortened))
        yield IntegrationPath(start, end, whole_model, whole=True)

    def _if_right(self, make: Callable[[], IntegrationPath | None]) -> IntegrationPath | None:
        """Make a path; None if its end is not the model's own answer.

        Prompts are taken in another order and number than they came in: what blocks are called with may have as many
        rows as there are prompts, and have none for each.
        """
        rows = torch.cat([self._every_row.flip(0), self._every_row[:1]])
        try:
            path = make()
            with torch.no_grad():
                answers = None if path is None else path.log_probs(path.end[rows.to(path.end.device)], rows)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # shapes that do not fit: the model is put together in another way
            return None
        own = self.log_probs[rows.to(self.log_probs.device)]
        right = answers is not None and bool(((answers.to(own.device) - own).abs() < _RIGHT).all())
        return path if right else None

    def _after_block(self, layer: int, start: torch.Tensor, end: torch.Tensor) -> IntegrationPath | None:
        """Make a path of the block's output, if that is affine.

        If the output is affine in the neurons, their straight path is a straight path of the output, and the block runs
        forward and backward once, whatever the number of nodes. After the last block only the answer position matters.
        """
        # run the block at the start of the path and at its middle; the output at the end is kept from the first pass
        with torch.enable_grad():
            points = torch.cat([start, (start + end) / 2]).requires_grad_()
            first, middle = self._block(layer, points, self._every_row.repeat(2)).chunk(2)
        low, high = first.detach(), self._outputs[layer]

        # the output is affine if its middle lies on the straight line between its ends
        bend = _norm(middle.detach() - (low + high) / 2)
        if bend > _AFFINE * _norm(high - low) + _ROUNDING * _norm(high):
            return None

        # go along the output; an affine block has one slope on the whole path, which is taken at the middle
        positions = slice(-1, None) if layer == len(self._neurons.blocks) - 1 else slice(None)

        def pull_back(gradient: torch.Tensor) -> torch.Tensor:
            (slope,) = torch.autograd.grad(middle[:, positions], points, gradient)
            return slope.chunk(2)[1]

        def above(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            return self._target_log_probs(self._above(x, layer, rows), rows).to(x.device)

        return IntegrationPath(low[:, positions], high[:, positions], above, pull_back)

    def _block(self, layer: int, neurons: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Run a layer's block with other neurons."""
        args, kwargs = self._calls[layer]
        with replace_neurons(self._neurons, layer, neurons):
            return _hidden(self._neurons.blocks[layer](*self._rows_of(args, rows), **self._rows_of(kwargs, rows)))

    def _above(self, hidden: torch.Tensor, layer: int, rows: torch.Tensor) -> torch.Tensor:
        """Run what follows a layer's block, to the answer position's logits."""
        taken: dict[int, Any] = {}
        blocks = self._neurons.blocks
        run = recomputed if self._recompute else nn.Module.__call__
        # the blocks above, called as in the first pass but for the hidden states
        with _only_the_answer(self._neurons.last_ffn):
            for number in range(layer + 1, len(blocks)):
                (_, *args), kwargs = self._calls[number]
                args, kwargs = self._rows_of(args, rows, taken), self._rows_of(kwargs, rows, taken)
                call = run if number < len(blocks) - 1 else nn.Module.__call__
                hidden = _hidden(call(blocks[number], hidden, *args, **kwargs))
        # tail and output head, at the answer position
        answer = hidden[:, -1]
        for module in self._neurons.tail or ():
            answer = module(answer)
        return head_logits(self._model, answer)

    def _whole(self, layer: int, neurons: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Run the whole model with other neurons, to the answer position's logits."""
        inputs = self._rows_of(self._batch.inputs(), rows)
        others = [block for number, block in enumerate(self._neurons.blocks) if number != layer]
        with replace_neurons(self._neurons, layer, neurons), all_recomputed(others if self._recompute else ()):
            logits: torch.Tensor = self._model(**inputs, logits_to_keep=1).logits[:, -1]
        return logits

    @property
    def _every_row(self) -> torch.Tensor:
        return torch.arange(len(self._batch.index), device=self._target.device)

    def _target_log_probs(self, logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        target = self._target[rows.to(self._target.device), None].to(logits.device)
        return logits.float().log_softmax(dim=-1).gather(1, target)[:, 0]

    def _rows_of(self, value: Any, rows: torch.Tensor, taken: dict[int, Any] | None = None) -> Any:
        return _rows_of(value, rows, len(self._batch.index), {} if taken is None else taken)

    def _remember_call(self, number: int) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            first = () if args else (kwargs["hidden_states"],)
            rest = {name: value for name, value in kwargs.items() if name != "hidden_states"}
            self._calls[number] = ((*first, *args), rest)

        return hook

    def _remember_output(self, layer: int) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            self._outputs[layer] = _hidden(output)

        return hook


@contextmanager
def _only_the_answer(ffn: nn.Module | None) -> Iterator[None]:
    """Run the last block's FFN on the answer position only.

    The FFN is most of the block's work.

    The result is given out at every position. It is right at the last position, and only that one is read.
    """
    if ffn is None:
        yield
        return
    tokens = 1

    def cut(_module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        nonlocal tokens
        if not args:
            return None
        tokens = args[0].shape[1]
        return (args[0][:, -1:], *args[1:])

    with ExitStack() as hooks:
        hooks.callback(ffn.register_forward_pre_hook(cut).remove)
        hooks.callback(
            ffn.register_forward_hook(lambda _m, args, out: out.repeat(1, tokens, 1) if args else None).remove
        )
        yield


def _norm(values: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(values))


def _hidden(output: Any) -> torch.Tensor:
    first: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return first


def _rows_of(value: Any, rows: torch.Tensor, prompts: int, taken: dict[int, Any]) -> Any:
    """Select rows of every tensor that has one for each prompt.

    Other tensors stay.

    `taken` holds the selections by identity: a tensor that several blocks are called with is selected once.
    """
    if isinstance(value, torch.Tensor):
        if value.dim() < 2 or value.shape[0] != prompts:
            return value
        if id(value) not in taken:
            taken[id(value)] = value.index_select(0, rows.to(value.device))
        return taken[id(value)]
    if isinstance(value, dict):
        return {key: _rows_of(item, rows, prompts, taken) for key, item in value.items()} | _alibi(value, rows, prompts)
    if isinstance(value, tuple | list):
        return type(value)(_rows_of(item, rows, prompts, taken) for item in value)
    return value


def _alibi(arguments: dict[str, Any], rows: torch.Tensor, prompts: int) -> dict[str, torch.Tensor]:
    """Select rows of Bloom's position bias: one for each prompt and head."""
    bias = arguments.get("alibi")
    return {} if bias is None else {"alibi": bias.unflatten(0, (prompts, -1))[rows.to(bias.device)].flatten(end_dim=1)}
