"""float8 with scales for blocks or rows (fp8, fbgemm_fp8); on a CPU transformers dequantizes fp8."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from pytest_quantcheck.models.formats.format import (
    Config,
    Contents,
    Format,
    NotAppliedError,
    QuantizedLayer,
    class_name,
)

_SCALES = ("weight_scale_inv", "scale", "qscale_weight")
"""Names that transformers reads for the scale of a float8 weight."""


def _matches(module: Any) -> bool:
    return class_name(module) in {"FP8Linear", "FbgemmFp8Linear"} and module.weight.element_size() == 1


def _weight(module: Any) -> torch.Tensor:
    codes: torch.Tensor = module.weight.detach().float()
    blockwise = hasattr(module, "weight_scale_inv")
    scale: torch.Tensor = (module.weight_scale_inv if blockwise else module.weight_scale).detach().float()
    if blockwise and module.block_size is not None:  # else one scale, or one for each row: (out, 1)
        for dim, size in enumerate(module.block_size):
            scale = scale.repeat_interleave(size, dim).narrow(dim, 0, codes.shape[dim])
    return codes * scale


def _check(contents: Contents, _config: Config) -> None:
    """Refuse codes without a scale, and scales that nothing applies.

    transformers would take such codes for the weights. It dequantizes all others, and the activations' static scales
    are left out.
    """
    codes = list(_codes(contents.types))
    bare = [name for name in codes if not any(f"{name}.{scale}" in contents.types for scale in _SCALES)]
    if bare:
        raise ValueError(
            f"{bare[0]}.weight is stored in float8 and has no scale ({' or '.join(_SCALES)}), as {len(bare)} of "
            f"{len(codes)} layers"
        )
    if static := [name for name in contents.types if name.endswith("activation_scale")]:
        raise NotAppliedError(
            f"{static[0]} is a static scale of activations, as {len(static)} of them, and nothing here applies it: the "
            "weights are dequantized. Measure it on a machine with a GPU, with --quantcheck-device=cuda"
        )


def _codes(types: Mapping[str, str]) -> dict[str, str]:
    """Find the float8 weights' types, such as `F8_E4M3`, by module name."""
    return {name.removesuffix(".weight"): kind for name, kind in types.items() if kind.startswith("F8_")}


def _stored_types(types: Mapping[str, str], _config: Config, _model: nn.Module) -> dict[str, str]:
    return _codes(types)


_LAYERS = (QuantizedLayer("float8", _matches, _weight),)

FP8 = Format(method="fp8", describe=lambda _: "fp8", layers=_LAYERS, check=_check, stored_types=_stored_types)
FBGEMM_FP8 = Format(
    method="fbgemm_fp8",
    describe=lambda _: "fbgemm fp8",
    packages=("fbgemm-gpu-genai",),
    needs_gpu=True,
    layers=_LAYERS,
    stored_types=_stored_types,
)
