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

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from pytest_quantcheck.models.formats import LAYERS, dequantized, find_layer, is_plain


@contextmanager
def float32_gradients(model: nn.Module, *, int8_kernels: bool = True) -> Iterator[str]:
    """Compute in float32 with exact gradients, and restore the model afterwards.

    Unquantized parameters are cast to float32 and quantized weights are dequantized to float32, except those of
    LLM.int8() if `int8_kernels`. Yields the name of the path taken, as `gradient_path` does. The restored model is the
    same bit for bit.
    """
    swapped = [
        module for module in model.modules() if _path_through(module, int8_kernels=int8_kernels).endswith("dequantized")
    ]
    forwards = {module: vars(module).get("forward") for module in swapped}
    originals = {p: p.data for p in model.parameters() if is_plain(p)}
    try:
        for module in swapped:
            module.forward = partial(_linear, module, dequantized(module))
        for parameter, data in originals.items():
            parameter.data = data.float()
        yield gradient_path(model, int8_kernels=int8_kernels)
    finally:
        for parameter, data in originals.items():
            parameter.data = data
        for module, forward in forwards.items():
            _restore(module, forward)


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


def _restore(module: nn.Module, forward: Any) -> None:
    vars(module).pop("forward", None)
    if forward is not None:
        vars(module)["forward"] = forward


def _linear(module: Any, weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return nn.functional.linear(x, weight.to(x.dtype), module.bias)
