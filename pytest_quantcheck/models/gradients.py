"""Gradients that are right through every layer, quantized or not, in float32.

bitsandbytes packs 4-bit weights for its CPU kernel, and that kernel has no autograd formula: the gradient of
everything below such a layer is silently lost. Weight-only quantization is the same function with the weights
dequantized, so that is what is differentiated.

LLM.int8() rounds activations too: its output is a staircase, and its backward pass multiplies by the dequantized
weights, the slope of the line that the staircase follows. On a 135M model the steps move an answer by 0.1 to
0.3 nats from one end of a thousandth of the path to the other, so attributions through its kernels do not sum to
anything. Unless its own kernels are asked for, the line itself is attributed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn


@contextmanager
def float32_gradients(model: nn.Module, *, int8_kernels: bool = True) -> Iterator[str]:
    """Let the model compute in float32 with exact gradients; afterwards it is what it was, bit for bit.

    Unquantized parameters are held in float32 meanwhile, 4-bit weights dequantized to float32, and so are int8
    weights unless `int8_kernels`. Yields the name of the path taken, as `gradient_path` does.
    """
    swapped = [m for m in model.modules() if _is_4bit(m) or (_is_int8(m) and not int8_kernels)]
    originals = {p: p.data for p in model.parameters() if _is_plain(p)}
    try:
        for module in swapped:
            module.forward = partial(_linear, module, dequantized(module))
        for parameter, data in originals.items():
            parameter.data = data.float()
        yield gradient_path(model, int8_kernels=int8_kernels)
    finally:
        for parameter, data in originals.items():
            parameter.data = data
        for module in swapped:
            vars(module).pop("forward", None)


def gradient_path(model: nn.Module, *, int8_kernels: bool = True) -> str:
    """How gradients go through this model's layers, for the measurement's provenance.

    `float32`, with `int8 kernels`, `int8 dequantized` or `4-bit dequantized` behind it where there are such.
    """
    int8 = " + int8 kernels" if int8_kernels else " + int8 dequantized"
    has_int8, has_4bit = (any(map(kind, model.modules())) for kind in (_is_int8, _is_4bit))
    return "float32" + int8 * has_int8 + " + 4-bit dequantized" * has_4bit


def dequantized(module: Any) -> torch.Tensor:
    """The weight (out, in) float32 of a bitsandbytes layer, as its own kernel applies it.

    Once packed for the CPU kernel a 4-bit weight is read by sending the identity through that kernel: the packed
    layout is private, and its block scales have been rounded on the way.
    """
    if _is_int8(module):
        holder = module.state if module.weight.CB is None else module.weight
        rows: torch.Tensor = holder.CB.float() * holder.SCB.float()[:, None] / 127
        return rows
    from bitsandbytes import functional, matmul_4bit  # noqa: PLC0415 - heavy, and only some models need it

    state = module.weight.quant_state
    if getattr(state, "packing_format_for_cpu", False):
        identity = torch.eye(state.shape[1], dtype=state.dtype, device=module.weight.device)
        columns: torch.Tensor = matmul_4bit(identity, module.weight, quant_state=state)
        return columns.t().float().contiguous()
    weight: torch.Tensor = functional.dequantize_4bit(module.weight.data, state)
    return weight.reshape(state.shape).float()


def _linear(module: Any, weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return nn.functional.linear(x, weight.to(x.dtype), module.bias)


def _is_4bit(module: nn.Module) -> bool:
    return any(cls.__name__ == "Linear4bit" for cls in type(module).__mro__)


def _is_int8(module: nn.Module) -> bool:
    return type(module).__name__ == "Linear8bitLt"


def _is_plain(parameter: nn.Parameter) -> bool:
    quantized = type(parameter).__name__ in {"Params4bit", "Int8Params"}
    return parameter.dtype in {torch.bfloat16, torch.float16} and not quantized
