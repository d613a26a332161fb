"""Exact gradients in float32 through every layer, quantized or not.

bitsandbytes packs 4-bit weights for its CPU kernel, and that kernel has no autograd formula: the gradient of
everything below such a layer is silently lost. The same happens where torchao or compressed-tensors round activations
(dynamic int8, W8A8). Weight-only quantization is the same function as the dequantized weights, and they are
differentiated.

LLM.int8() and similar formats round activations too. Their output is a step function, and the useful gradient is the
slope of the line that the steps follow: the dequantized weights. On a 135M model the steps of LLM.int8() move an
answer by 0.1 to 0.3 nats over a thousandth of the path, so attributions through its kernels do not sum to the change
of the answer. The line is differentiated unless LLM.int8()'s own kernels are asked for; other formats always.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from pytest_quantcheck.models.formats import LAYERS, dequantized, find_layer, is_plain


@contextmanager
def float32_gradients(model: nn.Module, *, int8_kernels: bool = True) -> Iterator[str]:
    """Compute in float32 with exact gradients, and restore the model afterwards.

    Unquantized parameters are cast to float32 and quantized weights are dequantized to float32, except those of
    LLM.int8() if `int8_kernels`. Yields the name of the path taken, as `gradient_path` does. The restored model is the
    same bit for bit.
    """
    originals = {p: p.data for p in model.parameters() if is_plain(p)}
    with _replaced_forwards(_dequantizing(_to_dequantize(model, int8_kernels=int8_kernels))):
        try:
            for parameter, data in originals.items():
                parameter.data = data.float()
            yield gradient_path(model, int8_kernels=int8_kernels)
        finally:
            for parameter, data in originals.items():
                parameter.data = data


@contextmanager
def float32_gradients_in_pieces(
    model: nn.Module, blocks: Sequence[nn.Module], *, int8_kernels: bool = True
) -> Iterator[None]:
    """Compute as in `float32_gradients`, one piece at a time.

    A piece is one of the `blocks`, or a module outside them with weights of its own. Its weights are cast whenever it
    is called, and freed when nothing needs them any more: autograd does until the backward pass, of blocks that are not
    called through `recomputed`.
    """
    pieces = [*blocks, *_outside(model, blocks)]
    swapped = [_to_dequantize(piece, int8_kernels=int8_kernels) for piece in pieces]
    with _replaced_forwards(
        (piece, partial(_called_in_float32, piece, piece.forward, layers))
        for piece, layers in zip(pieces, swapped, strict=True)
    ):
        yield


def recomputed(block: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a block so that autograd keeps its inputs alone.

    The backward pass calls it again: nothing may be hooked into it that is not then.
    """
    return checkpoint(block, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


@contextmanager
def all_recomputed(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Call these blocks as `recomputed` does, wherever the model calls them."""
    with _replaced_forwards((block, partial(recomputed, block.forward)) for block in blocks):
        yield


def float32_bytes(model: nn.Module, *, int8_kernels: bool = True) -> Counter[torch.device]:
    """Count the bytes that `float32_gradients` needs beside the model, on each device."""
    needed: Counter[torch.device] = Counter()
    for parameter in filter(is_plain, model.parameters()):
        needed[parameter.device] += torch.float32.itemsize * parameter.numel()
    for module in _to_dequantize(model, int8_kernels=int8_kernels):
        needed[next(module.parameters()).device] += torch.float32.itemsize * module.out_features * module.in_features
    return needed


def _to_dequantize(model: nn.Module, *, int8_kernels: bool) -> list[Any]:
    return [
        module for module in model.modules() if _path_through(module, int8_kernels=int8_kernels).endswith("dequantized")
    ]


def _outside(model: nn.Module, blocks: Sequence[nn.Module]) -> list[nn.Module]:
    """List the modules outside the blocks that have weights of their own."""
    inside = {module for block in blocks for module in block.modules()}
    return [module for module in model.modules() if module not in inside and [*module.parameters(recurse=False)]]


def _called_in_float32(
    piece: nn.Module, forward: Callable[..., Any], swapped: Sequence[nn.Module], *args: Any, **kwargs: Any
) -> Any:
    """Call a piece's own forward while its weights are in float32.

    They are other parameters then, not other data: autograd may keep them. A weight on disk is a placeholder here, and
    is cast when it is fetched. `swapped`: the layers to dequantize.
    """
    plain = [
        (module, name, parameter)
        for module in piece.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if is_plain(parameter)
    ]
    with _replaced_forwards(_dequantizing(swapped)):
        try:
            cast = {parameter: nn.Parameter(parameter.data.float(), requires_grad=False) for *_, parameter in plain}
            for module, name, parameter in plain:
                setattr(module, name, cast[parameter])
            run = piece.forward if piece in swapped else forward  # a quantized layer outside the blocks
            return run(*args, **kwargs)
        finally:
            for module, name, parameter in plain:
                setattr(module, name, parameter)


@contextmanager
def _replaced_forwards(replaced: Iterable[tuple[nn.Module, Callable[..., Any]]]) -> Iterator[None]:
    """Give modules other forwards, and their own back afterwards."""
    own: dict[nn.Module, Any] = {}
    try:
        for module, forward in replaced:
            own[module] = vars(module).get("forward")
            module.forward = forward
        yield
    finally:
        for module, forward in own.items():
            vars(module).pop("forward", None)
            if forward is not None:
                vars(module)["forward"] = forward


def _dequantizing(swapped: Iterable[nn.Module]) -> Iterator[tuple[nn.Module, Callable[..., Any]]]:
    """Make forwards that multiply by the dequantized weights."""
    return ((module, partial(_linear, module, dequantized(module))) for module in swapped)


def gradient_path(model: nn.Module, *, int8_kernels: bool = True) -> str:
    """Say how gradients pass through this model's layers, for the measurement's provenance.

    `float32`, followed by those that occur of `int8 kernels`, `int8 dequantized`, `4-bit dequantized`,
    `torchao dequantized`, `compressed-tensors dequantized`, `float8 dequantized` and `packed dequantized` (GPTQ, AWQ).
    """
    module_paths = {_path_through(module, int8_kernels=int8_kernels) for module in model.modules()}
    paths = [f"{layer.name} {way}" for layer in LAYERS for way in ("kernels", "dequantized")]
    return " + ".join(["float32", *(path for path in paths if path in module_paths)])


def _path_through(module: nn.Module, *, int8_kernels: bool) -> str:
    """Name the path through one module; empty for one that is not quantized."""
    layer = find_layer(module)
    if layer is None:
        return ""
    return f"{layer.name} {'kernels' if layer.differentiable and int8_kernels else 'dequantized'}"


def _linear(module: Any, weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return nn.functional.linear(x, weight.to(x.dtype), module.bias)
