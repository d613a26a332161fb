"""GPTQ and AWQ: layers of GPT-QModel, each with a packed layout of its own."""

from __future__ import annotations

from typing import Any

import torch

from pytest_quantcheck.models.formats.format import Config, Format, QuantizedLayer


def _describe(config: Config) -> str:
    return f"{config['quant_method']} {config.get('bits', config.get('w_bit'))} bit"


def _matches(module: Any) -> bool:
    return isinstance(getattr(module, "qweight", None), torch.Tensor)


@torch.no_grad()
def _weight(module: Any) -> torch.Tensor:
    """Send the identity through the layer's own kernel: every layout is read the same way."""
    identity = torch.eye(module.in_features, dtype=module.scales.dtype, device=module.qweight.device)
    columns: torch.Tensor = module(identity)
    return (columns if module.bias is None else columns - module.bias).t().float().contiguous()


_LAYERS = (QuantizedLayer("packed", _matches, _weight, shape=lambda _: None),)

GPTQ = Format(
    method="gptq",
    describe=_describe,
    packages=("gptqmodel", "optimum"),
    libraries=("gptqmodel",),
    layers=_LAYERS,
)
AWQ = Format(method="awq", describe=_describe, packages=("gptqmodel",), libraries=("gptqmodel",), layers=_LAYERS)
