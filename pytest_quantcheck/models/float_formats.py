"""Bit-widths by name: what each means to transformers and bitsandbytes."""

from __future__ import annotations

from typing import Any

import torch

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
QUANTIZED = ("int8", "nf4", "fp4")


def dtype_name(dtype: torch.dtype) -> str:
    """`bf16`, `fp16` or `fp32` for a dtype that has such a name, else torch's own word."""
    return next((name for name, known in DTYPES.items() if known == dtype), str(dtype).removeprefix("torch."))


def quantization_config(bits: str, compute: torch.dtype) -> Any | None:
    """What `from_pretrained` takes to load at this bit-width; None for the float formats.

    As in the paper: `int8` is LLM.int8(), the 4-bit types are doubly quantized. The paper multiplies 4-bit
    weights in fp16; here it is the reference's format.
    """
    from transformers import BitsAndBytesConfig  # noqa: PLC0415 - the auto classes are heavy

    if bits == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    if bits in {"nf4", "fp4"}:
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=bits,
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute,
        )
    return None


def multiplies(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the device has matrix kernels of its own for this float format.

    A CPU without them falls back to loops ten times slower than float32.
    """
    if device.type != "cpu" or dtype == torch.float32:
        return True
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001 - torch has no public question
    return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())  # noqa: SLF001 - as above
