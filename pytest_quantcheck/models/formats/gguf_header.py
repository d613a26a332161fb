"""What a GGUF file says of itself before its weights, believed only as far as the file bears it out.

The libraries' own readers trust the header: one flipped bit in a length sends them through memory that the file does
not have. So it is read here first, and only a file that is whole is handed on. The layout is that of the GGUF
specification, versions 2 and 3; what must hold is what llama.cpp demands of a file.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import gguf

from pytest_quantcheck.errors import ModelError

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_VERSIONS = (2, 3)
_MOST_DIMENSIONS = 4
_AGAIN = "copy, download or convert it again"


@dataclass(frozen=True)
class Tensor:
    """One tensor of the file: its type, such as `Q4_1`, its shape with the longest run of memory first, its place."""

    type: str
    shape: tuple[int, ...]
    offset: int

    @property
    def weights(self) -> int:
        """How many weights it holds."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes in the file."""
        weights, size = _block(self.type)
        return self.weights // weights * size

    @property
    def quantized(self) -> bool:
        """Whether it is stored in blocks with a scale, and not as plain numbers."""
        return _block(self.type)[0] > 1


@dataclass(frozen=True)
class Header:
    """A GGUF file's metadata (of an array its length), its tensors by name, and where their data begins, in bytes."""

    metadata: dict[str, Any]
    tensors: dict[str, Tensor]
    data_start: int

    @property
    def architecture(self) -> str:
        """Such as `llama`: the family of models, by llama.cpp's names."""
        return str(self.metadata.get("general.architecture"))

    @cached_property
    def weights(self) -> dict[str, int]:
        """Number of weights of each type of tensor, most first."""
        held: Counter[str] = Counter()
        for tensor in self.tensors.values():
            held[tensor.type] += tensor.weights
        return dict(held.most_common())

    @property
    def format(self) -> str | None:
        """`gguf` and the type that most quantized weights have; None where not one weight is quantized."""
        quantized = {tensor.type for tensor in self.tensors.values() if tensor.quantized}
        return next((f"gguf {kind}" for kind in self.weights if kind in quantized), None)


def read_header(path: Path) -> Header:
    """Read a GGUF file's header, and make sure that its data is as long as the header says.

    Raises:
        ModelError: the file is no GGUF, cut short anywhere, damaged in its header, or one part of several.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            header = _header(_Reader(data), path)
            _check_places(header, len(data), path)
    except EOFError:
        raise ModelError(f"{path} ends inside its own header: it is cut short or damaged; {_AGAIN}") from None
    except (ValueError, LookupError, RecursionError) as error:  # empty, no text, an unknown type, nested without end
        raise ModelError(f"{path}: its header is damaged ({error}); {_AGAIN}") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}; check the file and its permissions") from error
    return header


class _Reader:
    """Reads little-endian values one after another, and never beyond the end."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 0

    def take(self, length: int) -> bytes:
        if length > len(self.data) - self.at:
            raise EOFError
        self.at += length
        return self.data[self.at - length : self.at]

    def number(self, code: str) -> Any:
        (number,) = struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))
        return number

    def string(self) -> str:
        return self.take(self.number("Q")).decode()

    def value(self, kind: int) -> Any:
        """One value of metadata; of an array its length."""
        if kind == _STRING:
            return self.string()
        return self.skip_array() if kind == _ARRAY else self.number(_SCALARS[kind])

    def skip_array(self) -> int:
        kind, length = self.number("I"), int(self.number("Q"))
        if kind in _SCALARS:
            self.take(length * struct.calcsize("<" + _SCALARS[kind]))
            return length
        for _ in range(length):
            _ = self.take(self.number("Q")) if kind == _STRING else self.value(kind)
        return length

    def tensor(self) -> tuple[str, Tensor]:
        name, dimensions = self.string(), self.number("I")
        if dimensions > _MOST_DIMENSIONS:
            raise ValueError(f"tensor {name} has {dimensions} dimensions")
        shape = tuple(self.number("Q") for _ in range(dimensions))
        kind: str = gguf.GGMLQuantizationType(self.number("I")).name
        if math.prod(shape[:1]) % _block(kind)[0]:
            raise ValueError(f"tensor {name} has rows of {shape[0]} weights, which {kind} cannot hold")
        return name, Tensor(kind, shape, self.number("Q"))


def _header(reader: _Reader, path: Path) -> Header:
    if (magic := reader.take(4)) != b"GGUF":
        raise ModelError(f"{path} is not a GGUF file: it begins with {magic!r}; {_AGAIN}")
    if (version := reader.number("I")) not in _VERSIONS:
        raise ModelError(f"{path} is of GGUF version {version}, expected 2 or 3, little-endian; {_AGAIN}")
    n_tensors, n_values = reader.number("Q"), reader.number("Q")
    metadata = {}
    for _ in range(n_values):
        key = reader.string()
        metadata[key] = reader.value(reader.number("I"))
    tensors = dict(reader.tensor() for _ in range(n_tensors))
    if (parts := metadata.get("split.count") or 1) > 1:
        raise ModelError(f"{path} is one of {parts} parts; put them together with llama-gguf-split --merge")
    if len(tensors) != n_tensors:
        raise ValueError(f"{n_tensors} tensors share {len(tensors)} names")
    return Header(metadata, tensors, _aligned(reader.at, metadata))


def _check_places(header: Header, length: int, path: Path) -> None:
    """Each tensor lies directly behind the one before, and the last one ends where the file ends."""
    end = header.data_start
    promised = end
    for name, tensor in header.tensors.items():
        if tensor.offset != end - header.data_start:
            raise ValueError(f"tensor {name} does not lie behind the one before it")
        promised = end + tensor.size
        end = _aligned(promised, header.metadata)
    if not promised <= length <= end:
        raise ModelError(
            f"{path} has {length:,} bytes, and its header promises {promised:,}: it is cut short or damaged; {_AGAIN}"
        )


def _block(kind: str) -> tuple[int, int]:
    """Weights and bytes of one block of this type."""
    weights, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    return int(weights), int(size)


def _aligned(position: int, metadata: dict[str, Any]) -> int:
    alignment = metadata.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"general.alignment is {alignment}")
    return -(-position // alignment) * alignment
