"""Gradients that are right through every layer, quantized or not, in float32.

bitsandbytes packs 4-bit weights for its CPU kernel, and that kernel has no autograd formula: the gradient of
everything below such a layer is silently lost. Weight-only quantization is the same function with the weights
dequantized, so that is what is differentiated; LLM.int8() quantizes activations too and has a backward pass of
its own, which stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn


@contextmanager
def float32_gradients(model: nn.Module) -> Iterator[str]:
    """Let the model compute in float32 with exact gradients; afterwards it is what it was, bit for bit.

    Unquantized parameters are held in float32 meanwhile, 4-bit weights dequantized to float32. Yields the name
    of the path taken: `float32`, with `int8 kernels` or `4-bit dequantized` behind it where there are such.
    """
    four_bit = [module for module in model.modules() if _is_4bit(module)]
    originals = {p: p.data for p in model.parameters() if _is_plain(p)}
    try:
        for module in four_bit:
            module.forward = partial(_linear, module, dequantized(module))
        for parameter, data in originals.items():
            parameter.data = data.float()
        yield gradient_path(model)
    finally:
        for parameter, data in originals.items():
            parameter.data = data
        for module in four_bit:
            vars(module).pop("forward", None)


def gradient_path(model: nn.Module) -> str:
    """How gradients go through this model's layers, in words for the measurement's provenance."""
    int8 = any(type(module).__name__ == "Linear8bitLt" for module in model.modules())
    four_bit = any(_is_4bit(module) for module in model.modules())
    return "float32" + (" + int8 kernels" if int8 else "") + (" + 4-bit dequantized" if four_bit else "")


def dequantized(module: Any) -> torch.Tensor:
    """The weight (out, in) float32 of a bitsandbytes 4-bit layer, as its own kernel applies it.

    Once packed for the CPU kernel the weight is read by sending the identity through that kernel: the packed
    layout is private, and its block scales have been rounded on the way.
    """
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


def _is_plain(parameter: nn.Parameter) -> bool:
    quantized = type(parameter).__name__ in {"Params4bit", "Int8Params"}
    return parameter.dtype in {torch.bfloat16, torch.float16} and not quantized
