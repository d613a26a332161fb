"""Damage to a checkpoint's weights file, byte by byte, as a bad disk or a careless hand would do it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

_FLOATS = ("F32", "BF16", "F16")
_CODES = ("I8", "U8")
_MODULE = "model.layers.{}.mlp.gate_proj."


@dataclass(frozen=True)
class Stored:
    """One tensor in a safetensors file: its name and type, and where its bytes begin and end in the file."""

    file: Path
    name: str
    dtype: str
    begin: int
    end: int

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.end - self.begin

    def read(self) -> bytes:
        """Its bytes themselves."""
        return self.file.read_bytes()[self.begin : self.end]

    def write(self, data: bytes, offset: int = 0) -> None:
        """Put other bytes in their place, and leave the rest of the file alone."""
        with self.file.open("r+b") as file:
            file.seek(self.begin + offset)
            file.write(data)

    def flip(self, offset: int, bit: int) -> None:
        """Flip one bit of one byte."""
        self.write(bytes([self.read()[offset] ^ (1 << bit)]), offset)


@dataclass(frozen=True)
class Tamper:
    """One damage by name; `damage` does it to a directory at a block."""

    name: str
    summary: str
    damage: Callable[[Path, int], None]


def tensors(directory: Path, prefix: str = "") -> Iterator[Stored]:
    """Yield the tensors of a checkpoint whose names begin so."""
    for path in sorted(directory.glob("*.safetensors")):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        for name, entry in header.items():
            if name.startswith(prefix) and name != "__metadata__":
                begin, end = entry["data_offsets"]
                yield Stored(path, name, entry["dtype"], 8 + length + begin, 8 + length + end)


def scales(directory: Path, block: int) -> Stored:
    """The scales of a block's gate projection."""
    found = [one for one in tensors(directory, _MODULE.format(block)) if one.dtype in _FLOATS]
    return max((one for one in found if re.search("SCB|absmax|scale", one.name)), key=lambda one: one.size)


def codes(directory: Path, block: int) -> Stored:
    """The quantized weights of a block's gate projection."""
    found = [one for one in tensors(directory, _MODULE.format(block)) if one.dtype in _CODES]
    return max(found, key=lambda one: one.size)


def _high_exponent(directory: Path, block: int) -> None:
    _flip_top_byte(scales(directory, block), 6)


def _low_exponent(directory: Path, block: int) -> None:
    _flip_top_byte(scales(directory, block), 0)


def _flip_top_byte(stored: Stored, bit: int) -> None:
    """The byte of a float in the middle that holds its sign and the upper part of its exponent; little endian."""
    width = 4 if stored.dtype == "F32" else 2
    stored.flip(stored.size // width // 2 * width + width - 1, bit)


def _low_bit(directory: Path, block: int) -> None:
    stored = codes(directory, block)
    stored.flip(stored.size // 2, 0)


def _other_layer(directory: Path, block: int) -> None:
    """What has another length there, such as a description in JSON, stays."""
    here, there = (_MODULE.format(number) for number in (block, block + 1))
    others = {one.name.removeprefix(there): one for one in tensors(directory, there)}
    for one in tensors(directory, here):
        other = others[one.name.removeprefix(here)]
        if other.size == one.size:
            one.write(other.read())


TAMPERS = (
    Tamper("high-exponent", "highest bit of the exponent of one scale flipped", _high_exponent),
    Tamper("low-exponent", "a lower bit of the exponent of one scale flipped", _low_exponent),
    Tamper("low-bit", "lowest bit of one weight flipped", _low_bit),
    Tamper("other-layer", "weights of the next block's gate projection copied in", _other_layer),
)
