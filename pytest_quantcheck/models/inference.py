"""Prepare a model for measuring: frozen, without dropout, with kernels that are fast on this device."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from pytest_quantcheck.models.float_formats import multiplies
from pytest_quantcheck.models.formats.quantized_layers import find_layer


def prepare_for_inference(model: Any, device: torch.device) -> Any:
    """Return the model as it is measured."""
    _multiply_in_float32(model, device)
    _pass_contiguous(model.get_output_embeddings())
    return model.eval().requires_grad_(requires_grad=False)


def _multiply_in_float32(model: nn.Module, device: torch.device) -> None:
    """Multiply in float32 and round, where the CPU has no half-precision kernels.

    A half-precision kernel with float32 accumulation computes the same; torch's loops are ten times slower.
    """
    for module in model.modules():
        if type(module) is nn.Linear and not find_layer(module) and not multiplies(module.weight.dtype, device):
            module.forward = partial(_rounded_linear, module)  # type: ignore[method-assign]


def _rounded_linear(module: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    bias = None if module.bias is None else module.bias.float()
    return nn.functional.linear(x.float(), module.weight.float(), bias).to(x.dtype)


def _pass_contiguous(head: nn.Module | None) -> None:
    """Pass contiguous hidden states to the output head.

    It is called with a slice, the answer position. For a slice torch copies the whole head once for each prompt, which
    takes more than half the time of a forward pass of a 135M model.
    """
    if head is not None:
        head.register_forward_pre_hook(lambda _module, args: (args[0].contiguous(), *args[1:]))
