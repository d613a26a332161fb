"""bitsandbytes: LLM.int8() and the 4-bit types, as bit-widths and as released checkpoints."""

from __future__ import annotations

import re
from functools import cache
from math import prod
from typing import Any

import torch

from pytest_quantcheck.bit_widths import WIDTHS
from pytest_quantcheck.models.formats.format import (
    Config,
    Contents,
    Format,
    QuantizedLayer,
    class_name,
    read_json,
    require_parts,
)

_STATE = {"quant_type", "blocksize", "dtype", "shape"}
_OF_DOUBLE_QUANTIZATION = {"nested_blocksize", "nested_dtype", "nested_offset"}
"""What bitsandbytes writes beside a 4-bit weight, and what else where its scales are quantized too."""

_BYTES = {"BF16": 2, "F16": 2, "F32": 4}
"""Bytes of a number in which codes can be stored, other than one."""

_OF_4BIT = re.compile(r"\.(?:nested_)?(?:absmax|quant_map)$|\.quant_state\.")
"""What is appended to a 4-bit weight's name for the tensors that belong to it."""

_LEVELS_OF_SCALES = 256

_ROWS = 0
"""The only layout of int8 codes that bitsandbytes still writes and reads."""


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
    return "bitsandbytes int8" if config.get("load_in_8bit") else f"bitsandbytes {_kind(config)}"


def _kind(config: Config) -> str:
    """Find the 4-bit type; a configuration that names none means what bitsandbytes' default is."""
    return str(config.get("bnb_4bit_quant_type") or "fp4")


def _names_no_method(config: Config) -> bool:
    """Checkpoints of early bitsandbytes do not name their method; transformers reads them so too."""
    return bool(config.get("load_in_8bit") or config.get("load_in_4bit"))


def _check(contents: Contents, config: Config) -> None:
    """Refuse parts that are missing, contradict each other, or are unusual.

    Unusual is what not every kernel reads, where it is not what all of them take for granted.
    """
    for name in contents.types:
        layer, _, part = name.rpartition(".")
        if part == "SCB" or (part == "weight" and contents.types[name] == "I8"):
            rows = contents.shapes.get(f"{layer}.weight", (None,))[0]
            require_parts(contents, {f"{layer}.weight": None, f"{layer}.SCB": rows})
        if part == "weight_format" and (layout := int(contents.read(name))) != _ROWS:
            raise ValueError(f"{name} is {layout}, expected {_ROWS}: codes stored in rows, which is all that is read")
    packed = dict.fromkeys(_OF_4BIT.split(name)[0] for name in contents.types if _OF_4BIT.search(name))
    for weight in packed:
        _check_4bit(contents, weight, _kind(config))


def _check_4bit(contents: Contents, weight: str, kind: str) -> None:
    """Refuse a description that contradicts the configuration, or the tensors beside it."""
    levels, name = f"{weight}.quant_map", f"{weight}.quant_state.bitsandbytes__{kind}"
    require_parts(contents, {weight: None, f"{weight}.absmax": None, levels: None, name: None})
    state = read_json(name, bytes(contents.read(name).tolist()))
    if state.get("quant_type") != kind or not torch.equal(contents.read(levels).float(), _levels(kind)):
        raise ValueError(
            f"{name} or {levels} is not of {kind}, the bnb_4bit_quant_type of config.json: some kernels go by one and "
            "some by the other"
        )
    if set(state) not in (_STATE, _STATE | _OF_DOUBLE_QUANTIZATION):
        raise ValueError(f"{name}: expected {', '.join(sorted(_STATE))}, got {', '.join(map(str, state))}")
    sizes = [state.get("nested_blocksize", 1), state["blocksize"], *(state["shape"] or [None])]
    if not all(type(size) is int and size > 0 for size in sizes):
        raise ValueError(f"{name}: expected whole numbers above 0 as shape and block sizes, got {state}")
    n_weights = prod(state["shape"])
    n_blocks = _ceil(n_weights, state["blocksize"])
    parts = {weight: _ceil(n_weights, 2 * _BYTES.get(contents.types[weight], 1)), f"{weight}.absmax": n_blocks}
    if "nested_blocksize" in state:
        nested = _ceil(n_blocks, state["nested_blocksize"])
        parts |= {f"{weight}.nested_absmax": nested, f"{weight}.nested_quant_map": _LEVELS_OF_SCALES}
    require_parts(contents, parts)


def _ceil(number: int, divisor: int) -> int:
    return -(-number // divisor)


@cache
def _levels(kind: str) -> torch.Tensor:
    """Return what the 16 codes of a type stand for, float32."""
    from bitsandbytes import functional  # noqa: PLC0415 - heavy, and only some models need it

    levels: torch.Tensor = functional.get_4bit_type(kind, device="cpu")
    return levels


def _is_int8(module: Any) -> bool:
    return class_name(module) == "Linear8bitLt"


def _int8_weight(module: Any) -> torch.Tensor:
    holder = module.state if module.weight.CB is None else module.weight
    rows: torch.Tensor = holder.CB.float() * holder.SCB.float()[:, None] / 127
    return rows


def _int8_bytes(module: Any) -> int:
    holder = module.state if module.weight.CB is None else module.weight
    return int(holder.CB.nbytes + holder.SCB.nbytes)


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


def _4bit_bytes(module: Any) -> int:
    state = module.weight.quant_state
    nested = state.state2.absmax.nbytes if state.state2 else 0
    return int(module.weight.nbytes + state.absmax.nbytes + nested)


def _4bit_shape(module: Any) -> tuple[int, ...]:
    return tuple(module.weight.quant_state.shape)


BITSANDBYTES = Format(
    method="bitsandbytes",
    implied_by=_names_no_method,
    describe=_describe,
    check=_check,
    packages=("bitsandbytes",),
    libraries=("bitsandbytes",),
    layers=(
        QuantizedLayer("int8", _is_int8, _int8_weight, differentiable=True, nbytes=_int8_bytes),
        QuantizedLayer("4-bit", _is_4bit, _4bit_weight, nbytes=_4bit_bytes, shape=_4bit_shape),
    ),
)
