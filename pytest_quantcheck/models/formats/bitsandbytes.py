"""bitsandbytes: LLM.int8() and the 4-bit types, as bit-widths and as released checkpoints."""

from __future__ import annotations

from typing import Any

import torch

from pytest_quantcheck.bit_widths import WIDTHS
from pytest_quantcheck.models.formats.format import Config, Format, QuantizedLayer, class_name


def quantization_config(bit_width: str, compute: torch.dtype) -> Any:
    """Make what `from_pretrained` takes to load at this bit-width; `compute` is for the 4-bit types.

    The paper multiplies 4-bit weights in fp16; here it is the reference's format.
    """
    from transformers import BitsAndBytesConfig  # noqa: PLC0415 - the auto classes are heavy

    arguments = WIDTHS[bit_width].quantization
    computes = {"bnb_4bit_compute_dtype": compute} if "load_in_4bit" in arguments else {}
    return BitsAndBytesConfig(**arguments, **computes)


def _describe(config: Config) -> str:
    if config.get("load_in_8bit") and config.get("load_in_4bit"):
        raise ValueError("it says both load_in_4bit and load_in_8bit")
    return "bitsandbytes int8" if config.get("load_in_8bit") else f"bitsandbytes {config.get('bnb_4bit_quant_type')}"


def _names_no_method(config: Config) -> bool:
    """Checkpoints of early bitsandbytes do not name their method; transformers reads them so too."""
    return bool(config.get("load_in_8bit") or config.get("load_in_4bit"))


def _is_int8(module: Any) -> bool:
    return class_name(module) == "Linear8bitLt"


def _int8_weight(module: Any) -> torch.Tensor:
    holder = module.state if module.weight.CB is None else module.weight
    rows: torch.Tensor = holder.CB.float() * holder.SCB.float()[:, None] / 127
    return rows


def _is_4bit(module: Any) -> bool:
    return any(cls.__name__ == "Linear4bit" for cls in type(module).__mro__)


def _4bit_weight(module: Any) -> torch.Tensor:
    """Dequantize a 4-bit weight.

    Once packed for the CPU kernel it is read by sending the identity through that kernel: the packed layout is private,
    and packing rounds the scales of the blocks.
    """
    from bitsandbytes import functional, matmul_4bit  # noqa: PLC0415 - heavy, and only some models need it

    state = module.weight.quant_state
    if getattr(state, "packing_format_for_cpu", False):
        identity = torch.eye(state.shape[1], dtype=state.dtype, device=module.weight.device)
        columns: torch.Tensor = matmul_4bit(identity, module.weight, quant_state=state)
        return columns.t().float().contiguous()
    weight: torch.Tensor = functional.dequantize_4bit(module.weight.data, state)
    return weight.reshape(state.shape).float()


BITSANDBYTES = Format(
    method="bitsandbytes",
    implied_by=_names_no_method,
    describe=_describe,
    packages=("bitsandbytes",),
    libraries=("bitsandbytes",),
    layers=(
        QuantizedLayer("int8", _is_int8, _int8_weight, differentiable=True),
        QuantizedLayer("4-bit", _is_4bit, _4bit_weight),
    ),
)
