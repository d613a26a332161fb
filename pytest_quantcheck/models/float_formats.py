"""Float formats by name, and where a device computes in them."""

from __future__ import annotations

import torch

from pytest_quantcheck.bit_widths import WIDTHS

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, width.dtype) for name, width in WIDTHS.items() if width.dtype}


def dtype_name(dtype: torch.dtype) -> str:
    """Say `bf16`, `fp16` or `fp32`; torch's own name of any other dtype."""
    return next((name for name, value in DTYPES.items() if value == dtype), str(dtype).removeprefix("torch."))


def multiplies(dtype: torch.dtype, device: torch.device) -> bool:
    """Say whether the device has matrix kernels for this float format.

    A CPU without them uses loops that are ten times slower than float32.
    """
    if device.type != "cpu" or dtype == torch.float32:
        return True
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001 - torch has no public function for it
    return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())  # noqa: SLF001 - as above
