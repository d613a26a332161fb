"""torchao: an ordinary layer whose weight is a tensor subclass."""

from __future__ import annotations

import re
from typing import Any

import torch

from pytest_quantcheck.models.formats.format import Config, Format, QuantizedLayer, class_name


def _describe(config: Config) -> str:
    """Take the words from the name of torchao's class: `Int8WeightOnlyConfig` is int8 weight-only."""
    kind = (config.get("quant_type") or {}).get("default") or {}
    words = re.findall(r"[A-Z][a-z]*\d*", str(kind.get("_type")).removesuffix("Config"))
    return f"torchao {' '.join(words).lower()}".replace("weight only", "weight-only").replace("c act", "c-act")


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
    packages=("torchao",),
    libraries=("torchao",),
    layers=(QuantizedLayer("torchao", _matches, _weight, _label),),
)
