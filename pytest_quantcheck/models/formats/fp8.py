"""float8 with scales for blocks or rows (fp8, fbgemm_fp8); on a CPU transformers dequantizes fp8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.models.formats.format import Config, Format, QuantizedLayer, class_name

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


def _stored_types(files: Path, _config: Config, _model: nn.Module) -> dict[str, str]:
    """Return the float8 weights' types, such as `F8_E4M3`, by module name.

    Raises:
        ModelError: a weight has no scale beside it; transformers would take its codes for the weights.
    """
    types = _tensor_types(files)
    codes = {name.removesuffix(".weight"): kind for name, kind in types.items() if kind.startswith("F8_")}
    bare = [name for name in codes if not any(f"{name}.{scale}" in types for scale in _SCALES)]
    if bare:
        raise ModelError(
            f"{files}: {bare[0]} is stored in float8 and has no scale ({' or '.join(_SCALES)}), as "
            f"{len(bare)} of {len(codes)} layers. Check that the files are complete and belong together"
        )
    return codes


def _tensor_types(files: Path) -> dict[str, str]:
    """Read the types of all tensors, by name, from the files' headers."""
    from safetensors import safe_open  # noqa: PLC0415 - only for this format

    found: dict[str, str] = {}
    for path in sorted(files.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= {name: str(file.get_slice(name).get_dtype()) for name in file.keys()}  # noqa: SIM118
    return found


_LAYERS = (QuantizedLayer("float8", _matches, _weight),)

FP8 = Format(method="fp8", describe=lambda _: "fp8", layers=_LAYERS, stored_types=_stored_types)
FBGEMM_FP8 = Format(
    method="fbgemm_fp8",
    describe=lambda _: "fbgemm fp8",
    packages=("fbgemm-gpu-genai",),
    needs_gpu=True,
    layers=_LAYERS,
    stored_types=_stored_types,
)
