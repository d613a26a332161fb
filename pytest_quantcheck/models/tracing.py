"""Find the FFNs of an unknown layout by what they compute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import nn

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.models.architectures import FfnNames, Layout
from pytest_quantcheck.models.experts import find_mixture
from pytest_quantcheck.text import shortened

_ROUNDING = 2**-7
"""Deviation of the down projection's input from the product of gate and up, as a share: two roundings to bfloat16."""

_LATER = 0.01
"""Share of what a token moves its own answer by. Rounding moves the answer before it by less; a token that attention
sees moves it as it moves its own, about."""


class _Call(NamedTuple):
    """One call of a module without children; `output` is kept so that its memory is not given to another tensor."""

    name: str
    module: nn.Module
    input: torch.Tensor
    output: torch.Tensor


class _Found(NamedTuple):
    """An FFN of a block; `ffn` is None where the function reads the second half of a fused projection."""

    activation: str
    width: int
    ffn: FfnNames | None


def trace_layout(model: nn.Module, decoder: nn.Module) -> Layout:
    """Find a decoder's blocks, their activation functions and the projections around them.

    Two prompts of two tokens are run. An FFN is what computes so on them, whatever its names: a linear module, an
    elementwise function that is a module, and a linear module that reads the function's output, or its product with
    another linear module's.

    Raises:
        ModelError: no list of modules has such FFNs or mixtures of experts; a block has several FFNs, or runs several
            times; a token's answer depends on later tokens.
    """
    lists = {name: list(module) for name, module in decoder.named_modules() if isinstance(module, nn.ModuleList)}
    calls, logits = _run(model, {block for blocks in lists.values() for block in blocks})
    _refuse_later_tokens(model, logits)
    found = {name: [_widest(_ffns(calls[block])) for block in blocks] for name, blocks in lists.items()}
    most = max(found, key=lambda name: sum(one is not None for one in found[name]), default=None)
    first = next(filter(None, found[most]), None) if most else None
    if most and first and sum(call.name == first.activation for call in calls[lists[most][0]]) > 1:
        raise ModelError(f"{type(model).__name__}: its blocks run several times for one token, and once was expected")
    if most and first:
        return Layout(most, first.activation, first.ffn)
    for name, blocks in lists.items():
        if any(map(find_mixture, blocks)):
            return Layout(name)
    raise ModelError(
        f"{type(model).__name__}: no FFN was found: no block has an activation function, as a module of its own, "
        "between two linear modules"
    )


def _run(model: nn.Module, blocks: set[nn.Module]) -> tuple[dict[nn.Module, list[_Call]], torch.Tensor]:
    """Run two prompts that begin with the same token; list each block's calls and give the logits."""
    calls: dict[nn.Module, list[_Call]] = {block: [] for block in blocks}
    embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
    some = [len(embedding.weight) * part // 8 for part in (3, 5, 6)]
    ids = torch.tensor([[some[0], some[1]], [some[0], some[2]]], device=embedding.weight.device)

    with torch.no_grad(), ExitStack() as hooks:
        for block in blocks:
            for name, module in block.named_modules():
                if not any(module.children()):
                    hooks.callback(module.register_forward_hook(_keep(calls[block], name)).remove)
        try:
            logits: torch.Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        except Exception as error:
            text = " ".join(str(error).split())[:200].rstrip(".")
            raise ModelError(
                f"{type(model).__name__}: its layout is not known, and it does not answer two tokens, by which an FFN "
                f"would be found: {type(error).__name__}: {text}"
            ) from error
    return calls, logits


def _keep(calls: list[_Call], name: str) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if args and isinstance(args[0], torch.Tensor) and isinstance(output, torch.Tensor):
            calls.append(_Call(name, module, args[0], output))

    return hook


def _refuse_later_tokens(model: nn.Module, logits: torch.Tensor) -> None:
    """Refuse a model in which a token's answer depends on later ones."""
    first, second = ((logits[0, position] - logits[1, position]).float().abs().max() for position in (0, 1))
    if first > _LATER * second:
        raise ModelError(
            f"{type(model).__name__}: a token's answer depends on later tokens (an encoder, such as BERT without "
            "is_decoder in config.json), and a causal language model was expected"
        )


def _ffns(calls: list[_Call]) -> Iterator[_Found]:
    """Yield what computes as an FFN among a block's calls."""
    linear = [call for call in calls if _is_linear(call.module)]
    for function in calls:
        gates = [call for call in linear if _shares_memory(function.input, call.output)]
        if gates and not _is_linear(function.module) and _is_elementwise(function):
            for gate, down in product(gates, linear):
                yield from _between(gate, function, down, linear)


def _between(gate: _Call, function: _Call, down: _Call, linear: list[_Call]) -> Iterator[_Found]:
    """Yield an FFN if `down` reads what the function gives.

    It may be multiplied with what another linear module gives.
    """
    width = function.output.shape[-1]
    if _same(down.input, function.output):
        yield _Found(function.name, width, FfnNames(gate.name, None, down.name))
    for up in linear:
        for part in torch.split(up.output, width, dim=-1):  # of a fused module gate and up
            if part.numel() == function.output.numel() and _same(
                down.input, function.output.reshape(part.shape) * part
            ):
                yield _Found(function.name, width, _names(function, gate, up, down))


def _names(function: _Call, gate: _Call, up: _Call, down: _Call) -> FfnNames | None:
    """Name the projections around a function; None where a fused one has the gate's rows last."""
    offset = function.input.storage_offset() - gate.output.storage_offset()
    return FfnNames(gate.name, up.name, down.name) if offset == 0 else None


def _widest(found: Iterator[_Found]) -> _Found | None:
    """Choose a block's FFN: attention may hold small functions between projections too."""
    every = list(found)
    widest = max(every, key=lambda one: one.width, default=None)
    alike = sorted({one.activation for one in every if widest and one.width == widest.width})
    if len(alike) > 1:
        raise ModelError(f"a block has several FFNs, and one was expected: {shortened(alike)}")
    return widest


def _is_linear(module: nn.Module) -> bool:
    """Recognise quantized linear modules too."""
    return hasattr(module, "in_features") or type(module).__name__ == "Conv1D"


def _shares_memory(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def _is_elementwise(call: _Call) -> bool:
    """Say whether half of the input gives half of the output.

    A norm does not, and what gives its input again, as dropout does, is no function.
    """
    half = call.input.shape[-1] // 2
    if call.output.shape != call.input.shape or torch.equal(call.input, call.output):
        return False
    try:
        with torch.no_grad():
            again = call.module(call.input[..., :half])
    except (RuntimeError, ValueError, TypeError):  # a norm of fixed width
        return False
    return _same(again, call.output[..., :half])


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.numel() != other.numel():
        return False
    one, other = one.float().reshape(-1), other.float().reshape(-1)
    return bool((one - other).norm() <= _ROUNDING * one.norm())
