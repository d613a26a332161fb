"""Bit-widths that a model can be loaded at: one row says the name, the short form and how it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

_NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}


class Width(NamedTuple):
    """One bit-width: a float format, in which a model is loaded as it is, or a quantization."""

    dtype: str = ""
    """Torch's name of the float format."""
    quantization: Mapping[str, Any] = MappingProxyType({})
    """The arguments of transformers' `BitsAndBytesConfig`."""
    words: str = ""
    """What the quantization is called in a sentence."""
    short: str = ""
    """The number of bits that stands for this bit-width on the command line."""


WIDTHS: Mapping[str, Width] = {
    "bf16": Width("bfloat16", short="16"),
    "fp16": Width("float16"),
    "fp32": Width("float32"),
    "int8": Width(quantization={"load_in_8bit": True}, words="LLM.int8()", short="8"),
    "nf4": Width(quantization=_NF4, words="NF4 with double quantization", short="4"),
    "fp4": Width(quantization=_NF4 | {"bnb_4bit_quant_type": "fp4"}, words="FP4 with double quantization"),
}
"""By exact name. As in the paper, `int8` is LLM.int8(), and the 4-bit types are doubly quantized."""

SPELLINGS = (*(width.short for width in WIDTHS.values() if width.short), *WIDTHS)
"""What the command line takes, as help lists it."""

if TYPE_CHECKING:
    BitWidth = str
else:
    BitWidth = Literal[tuple(WIDTHS)]
    """Type of an exact name in a file that msgspec reads."""
