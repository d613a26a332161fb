"""Formats of quantized weights: one file each, collected here with their layers."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pytest_quantcheck.models.formats.bitsandbytes import BITSANDBYTES
from pytest_quantcheck.models.formats.compressed_tensors import COMPRESSED_TENSORS
from pytest_quantcheck.models.formats.format import Format, QuantizedLayer, class_name
from pytest_quantcheck.models.formats.fp8 import FBGEMM_FP8, FP8
from pytest_quantcheck.models.formats.gguf import GGUF
from pytest_quantcheck.models.formats.gptq import AWQ, GPTQ
from pytest_quantcheck.models.formats.torchao import TORCHAO

FORMATS: tuple[Format, ...] = (BITSANDBYTES, TORCHAO, COMPRESSED_TENSORS, FP8, FBGEMM_FP8, GPTQ, AWQ, GGUF)
"""Every format; the first that matches a checkpoint is its format."""

LAYERS: tuple[QuantizedLayer, ...] = tuple(
    dict.fromkeys(layer for weight_format in FORMATS for layer in weight_format.layers)
)
"""Every kind of quantized layer."""


def find_layer(module: nn.Module) -> QuantizedLayer | None:
    """Find the kind of a quantized layer; None for every other module."""
    return next((layer for layer in LAYERS if layer.matches(module)), None)


def module_types(model: nn.Module, stored: Mapping[str, str] | None = None) -> dict[str, int]:
    """Count the modules without children by type, such as `Linear` or `Linear[Int8Tensor]`.

    `stored`: how the files hold the weights, by module name, where they were dequantized on loading.
    """
    suffixes = {name: f"[{kind}]" for name, kind in (stored or {}).items()}
    leaves = {name: module for name, module in model.named_modules() if not list(module.children())}
    return dict(Counter(_type_name(module) + suffixes.get(name, "") for name, module in leaves.items()))


def has_quantized(model: nn.Module) -> bool:
    """Say whether at least one module is a quantized layer."""
    return any(find_layer(module) for module in model.modules())


def dequantized(module: Any) -> torch.Tensor:
    """Dequantize the weight of a layer to float32 (out, in).

    It is the weight that the layer's own kernel applies.

    Raises:
        ValueError: the module is not a quantized layer.
    """
    layer = find_layer(module)
    if layer is None:
        raise ValueError(f"Expected a quantized layer, got {class_name(module)}.")
    return layer.weight(module)


def is_plain(parameter: nn.Parameter) -> bool:
    """Say whether a parameter is an ordinary half-precision tensor."""
    return type(parameter) is nn.Parameter and parameter.dtype in {torch.bfloat16, torch.float16}


def _type_name(module: nn.Module) -> str:
    layer = find_layer(module)
    return class_name(module) if layer is None else layer.label(module)
