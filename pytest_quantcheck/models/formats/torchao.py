"""torchao: an ordinary layer whose weight is a tensor subclass."""

from __future__ import annotations

import re
from math import prod
from typing import Any

import torch

from pytest_quantcheck.models.formats.format import (
    Config,
    Contents,
    Format,
    QuantizedLayer,
    class_name,
    read_json,
    require_parts,
)

_UNPACKED = {"Int8Tensor", "Float8Tensor", "IntxUnpackedToInt8Tensor"}
"""Classes of torchao that hold one code in each number, with a scale for each block."""


def _describe(config: Config) -> str:
    """Take the words from the name of torchao's class: `Int8WeightOnlyConfig` is int8 weight-only."""
    kind = (config.get("quant_type") or {}).get("default") or {}
    words = re.findall(r"[A-Z][a-z]*\d*", str(kind.get("_type")).removesuffix("Config"))
    return f"torchao {' '.join(words).lower()}".replace("weight only", "weight-only").replace("c act", "c-act")


def _check(contents: Contents, _config: Config) -> None:
    """Refuse missing or misshapen parts, and zero points that are left out."""
    for weight, text in contents.metadata.items():
        description = read_json(f"the description of {weight}", text) if text.startswith("{") else {}
        prefix = f"{weight.removesuffix('weight')}_weight_"
        parts = {f"{prefix}{part}": None for part in description.get("_tensor_data_names", ())}
        if parts:
            require_parts(contents, parts)
        if parts and description.get("_type") in _UNPACKED:
            shape = contents.shapes[f"{prefix}qdata"]
            block = description.get("_data", {}).get("block_size") or shape
            blocks = prod(-(-side // length) for side, length in zip(shape, block, strict=True))
            scales = [name for name in (f"{prefix}scale", f"{prefix}zero_point") if name in parts]
            require_parts(contents, dict.fromkeys(scales, blocks))
            if description["_type"] == "Int8Tensor" and block[-1] == shape[-1]:
                _require_zero(contents, f"{prefix}zero_point")


def _require_zero(contents: Contents, name: str) -> None:
    if name in contents.types and contents.read(name).any():
        raise ValueError(
            f"{name} is not 0, and torchao's int8 kernel leaves it out: the product is not that of the weights that "
            "the file stands for. Quantize symmetrically, or in groups"
        )


def _matches(module: Any) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, torch.Tensor) and type(weight).__module__.startswith("torchao.")


def _label(module: Any) -> str:
    return f"{class_name(module)}[{class_name(module.weight)}]"


@torch.no_grad()
def _weight(module: Any) -> torch.Tensor:
    """Dequantize in float32 where the tensor's class can: its own float format would round the product."""
    tensor = module.weight
    try:
        weight: torch.Tensor = tensor.dequantize(torch.float32)
    except TypeError:  # this class takes no format
        weight = tensor.dequantize().float()
    before = getattr(tensor, "act_pre_scale", None)
    return weight if before is None else weight * before.float()


TORCHAO = Format(
    method="torchao",
    describe=_describe,
    check=_check,
    packages=("torchao",),
    libraries=("torchao",),
    layers=(QuantizedLayer("torchao", _matches, _weight, _label),),
)
