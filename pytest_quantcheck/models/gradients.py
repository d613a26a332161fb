"""Gradients that are right through every layer, quantized or not, in float32.

bitsandbytes packs 4-bit weights for its CPU kernel, and that kernel has no autograd formula: the gradient of
everything below such a layer is silently lost. So it is where torchao or compressed-tensors round activations (dynamic
int8, W8A8). Weight-only quantization is the same function with the weights dequantized, so that is what is
differentiated.

LLM.int8() and its like round activations too: their output is a staircase, and the gradient that is wanted is the
slope of the line that the staircase follows, the dequantized weights. On a 135M model the steps of LLM.int8() move an
answer by 0.1 to 0.3 nats from one end of a thousandth of the path to the other, so attributions through its kernels do
not sum to anything. Unless its own kernels are asked for, the line itself is attributed; for other formats always.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from pytest_quantcheck.models.formats.quantized_layers import KINDS, dequantized, is_plain, kind_of


@contextmanager
def float32_gradients(model: nn.Module, *, int8_kernels: bool = True) -> Iterator[str]:
    """Let the model compute in float32 with exact gradients; afterwards it is what it was, bit for bit.

    Unquantized parameters are held in float32 meanwhile, and quantized weights dequantized to float32, but for those of
    LLM.int8() where `int8_kernels`. Yields the name of the path taken, as `gradient_path` does.
    """
    swapped = [
        module for module in model.modules() if _family(module, int8_kernels=int8_kernels).endswith("dequantized")
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
            _give_back(module, forward)


def gradient_path(model: nn.Module, *, int8_kernels: bool = True) -> str:
    """How gradients go through this model's layers, for the measurement's provenance.

    `float32`, and behind it what there is of `int8 kernels`, `int8 dequantized`, `4-bit dequantized`,
    `torchao dequantized`, `compressed-tensors dequantized`, `float8 dequantized` and `packed dequantized` (GPTQ, AWQ).
    """
    found = {_family(module, int8_kernels=int8_kernels) for module in model.modules()}
    ways = [f"{kind.family} {way}" for kind in KINDS for way in ("kernels", "dequantized")]
    return " + ".join(["float32", *(way for way in ways if way in found)])


def _family(module: nn.Module, *, int8_kernels: bool) -> str:
    """The way through one module; empty for one that is not quantized."""
    kind = kind_of(module)
    if kind is None:
        return ""
    return f"{kind.family} {'kernels' if kind.family == 'int8' and int8_kernels else 'dequantized'}"


def _give_back(module: nn.Module, forward: Any) -> None:
    vars(module).pop("forward", None)
    if forward is not None:
        vars(module)["forward"] = forward


def _linear(module: Any, weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return nn.functional.linear(x, weight.to(x.dtype), module.bias)
