"""Layers with quantized weights: how each kind is recognised, named, and read back as plain numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Kind:
    """One way to hold a quantized weight.

    `family` names it in a measurement's gradient path; `holds`: whether a module is of this kind; `label`: its name in
    `module_types`; `weight`: what its codes stand for, (out, in) float32, as its own kernel applies it.
    """

    family: str
    holds: Callable[[Any], bool]
    label: Callable[[Any], str]
    weight: Callable[[Any], torch.Tensor]


def kind_of(module: nn.Module) -> Kind | None:
    """The kind of a quantized layer; None for every other module."""
    return next((kind for kind in KINDS if kind.holds(module)), None)


def module_types(model: nn.Module, stored: Mapping[str, str] | None = None) -> dict[str, int]:
    """How many modules without children there are of each type, such as `Linear` or, quantized, `Linear[Int8Tensor]`.

    `stored`: how the files hold the weights of modules, by their names, where that is not how they are held here.
    """
    held = {name: f"[{kind}]" for name, kind in (stored or {}).items()}
    leaves = {name: module for name, module in model.named_modules() if not list(module.children())}
    return dict(Counter(_label(module) + held.get(name, "") for name, module in leaves.items()))


def has_quantized(model: nn.Module) -> bool:
    """Whether one module at least is a quantized layer."""
    return any(kind_of(module) for module in model.modules())


def dequantized(module: Any) -> torch.Tensor:
    """The weight (out, in) float32 of a quantized layer, as its own kernel applies it.

    Raises:
        ValueError: the module is not a quantized layer.
    """
    kind = kind_of(module)
    if kind is None:
        raise ValueError(f"Expected a quantized layer, got {type(module).__name__}.")
    return kind.weight(module)


def is_plain(parameter: nn.Parameter) -> bool:
    """Whether a parameter is an ordinary tensor in a half-precision float format."""
    return type(parameter) is nn.Parameter and parameter.dtype in {torch.bfloat16, torch.float16}


def _label(module: nn.Module) -> str:
    kind = kind_of(module)
    return _class_name(module) if kind is None else kind.label(module)


def _class_name(module: Any) -> str:
    return type(module).__name__


# bitsandbytes


def _is_int8(module: Any) -> bool:
    return _class_name(module) == "Linear8bitLt"


def _int8_weight(module: Any) -> torch.Tensor:
    holder = module.state if module.weight.CB is None else module.weight
    rows: torch.Tensor = holder.CB.float() * holder.SCB.float()[:, None] / 127
    return rows


def _is_4bit(module: Any) -> bool:
    return any(cls.__name__ == "Linear4bit" for cls in type(module).__mro__)


def _4bit_weight(module: Any) -> torch.Tensor:
    """Once packed for the CPU kernel, read by sending the identity through that kernel.

    The packed layout is private, and its block scales have been rounded on the way.
    """
    from bitsandbytes import functional, matmul_4bit  # noqa: PLC0415 - heavy, and only some models need it

    state = module.weight.quant_state
    if getattr(state, "packing_format_for_cpu", False):
        identity = torch.eye(state.shape[1], dtype=state.dtype, device=module.weight.device)
        columns: torch.Tensor = matmul_4bit(identity, module.weight, quant_state=state)
        return columns.t().float().contiguous()
    weight: torch.Tensor = functional.dequantize_4bit(module.weight.data, state)
    return weight.reshape(state.shape).float()


# torchao: an ordinary layer whose weight is a tensor subclass


def _is_torchao(module: Any) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, torch.Tensor) and type(weight).__module__.startswith("torchao.")


def _torchao_label(module: Any) -> str:
    return f"{_class_name(module)}[{type(module.weight).__name__}]"


@torch.no_grad()
def _torchao_weight(module: Any) -> torch.Tensor:
    """In float32 where the tensor's class can give it so: its own float format would round the product."""
    tensor = module.weight
    try:
        weight: torch.Tensor = tensor.dequantize(torch.float32)
    except TypeError:  # this class takes no format
        weight = tensor.dequantize().float()
    before = getattr(tensor, "act_pre_scale", None)
    return weight if before is None else weight * before.float()


# compressed-tensors: an ordinary layer with a scheme and a forward of its own


def _is_compressed(module: Any) -> bool:
    scheme = getattr(module, "quantization_scheme", None)
    return (
        scheme is not None and scheme.weights is not None and isinstance(getattr(module, "weight", None), torch.Tensor)
    )


def _compressed_label(module: Any) -> str:
    return f"{_class_name(module)}[{scheme_name(module.quantization_scheme.model_dump())}]"


def scheme_name(scheme: dict[str, Any]) -> str:
    """A scheme of compressed-tensors in its own terms: bits of weights and activations, such as `W4A16`."""
    weights, activations = scheme.get("weights") or {}, scheme.get("input_activations") or {}
    kind = " float" if str(getattr(weights.get("type"), "value", weights.get("type"))) == "float" else ""
    return f"W{weights.get('num_bits', 16)}A{activations.get('num_bits', 16)}{kind}"


@torch.no_grad()
def _compressed_weight(module: Any) -> torch.Tensor:
    """Its weight has been decompressed on loading; one that was never compressed is rounded in each forward pass."""
    from compressed_tensors.quantization import forward_quantize  # noqa: PLC0415 - only some models need it

    weight: torch.Tensor = forward_quantize(module, module.weight.data, "weight", module.quantization_scheme.weights)
    return weight.float()


# float8 with scales for blocks or rows, on a GPU: elsewhere transformers dequantizes it


def _is_float8(module: Any) -> bool:
    return _class_name(module) in {"FP8Linear", "FbgemmFp8Linear"} and module.weight.element_size() == 1


def _float8_weight(module: Any) -> torch.Tensor:
    codes: torch.Tensor = module.weight.detach().float()
    blockwise = hasattr(module, "weight_scale_inv")
    scale: torch.Tensor = (module.weight_scale_inv if blockwise else module.weight_scale).detach().float()
    if blockwise and module.block_size is not None:  # else one scale, or one for each row: (out, 1)
        for dim, size in enumerate(module.block_size):
            scale = scale.repeat_interleave(size, dim).narrow(dim, 0, codes.shape[dim])
    return codes * scale


# GPTQ and AWQ: layers of GPT-QModel, each with a packed layout of its own


def _is_packed_linear(module: Any) -> bool:
    return isinstance(getattr(module, "qweight", None), torch.Tensor)


@torch.no_grad()
def _packed_linear_weight(module: Any) -> torch.Tensor:
    """Read by sending the identity through the layer's own kernel, whichever that is."""
    identity = torch.eye(module.in_features, dtype=module.scales.dtype, device=module.qweight.device)
    columns: torch.Tensor = module(identity)
    return (columns if module.bias is None else columns - module.bias).t().float().contiguous()


KINDS = (
    Kind("int8", _is_int8, _class_name, _int8_weight),
    Kind("4-bit", _is_4bit, _class_name, _4bit_weight),
    Kind("torchao", _is_torchao, _torchao_label, _torchao_weight),
    Kind("compressed-tensors", _is_compressed, _compressed_label, _compressed_weight),
    Kind("float8", _is_float8, _class_name, _float8_weight),
    Kind("packed", _is_packed_linear, _class_name, _packed_linear_weight),
)
"""Every kind that is known, each recognised without importing its library."""
