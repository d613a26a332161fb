"""Read and check the header of a GGUF file.

The libraries' own readers trust the header: after one flipped bit in a length they read memory beyond the file. So the
header is read here first, and a file that is not whole is refused. The layout is that of the GGUF specification,
versions 2 and 3; the checks are those of llama.cpp.
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


class ArrayLength(int):
    """The length of an array, which stands for it."""


@dataclass(frozen=True)
class GgufTensor:
    """One tensor of the file.

    `type`: such as `Q4_1`. `shape`: the dimension that is contiguous in memory first. `offset`: bytes from the start of
    the data.
    """

    type: str
    shape: tuple[int, ...]
    offset: int

    @property
    def weights(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes in the file."""
        weights, size = _block(self.type)
        return self.weights // weights * size

    @property
    def quantized(self) -> bool:
        """Whether it is stored in blocks with a scale."""
        return _block(self.type)[0] > 1


@dataclass(frozen=True)
class Header:
    """Metadata and tensors of a GGUF file.

    `metadata`: of an array only its `ArrayLength`. `tensors`: by name. `data_start`: where the tensors' data begins, in
    bytes.
    """

    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]
    data_start: int

    @property
    def architecture(self) -> str:
        """The architecture by llama.cpp's name, such as `llama`."""
        return str(self.metadata.get("general.architecture"))

    @cached_property
    def weights(self) -> dict[str, int]:
        """Number of weights of each type of tensor, most first."""
        counts: Counter[str] = Counter()
        for tensor in self.tensors.values():
            counts[tensor.type] += tensor.weights
        return dict(counts.most_common())

    @property
    def format(self) -> str | None:
        """`gguf` and the most frequent quantized type; None without quantized weights."""
        quantized = {tensor.type for tensor in self.tensors.values() if tensor.quantized}
        return next((f"gguf {kind}" for kind in self.weights if kind in quantized), None)


def read_header(path: Path) -> Header:
    """Read a GGUF file's header and check the file's length against it.

    Raises:
        ModelError: the file is not GGUF, is cut short, has a damaged header, or is one part of several.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            header = _header(_Reader(data), path)
            _check_positions(header, len(data), path)
    except EOFError:
        raise ModelError(f"{path} ends inside its own header: it is cut short or damaged; {_AGAIN}") from None
    except (ValueError, LookupError, RecursionError) as error:  # empty, invalid text, an unknown type, endless nesting
        raise ModelError(f"{path}: its header is damaged ({error}); {_AGAIN}") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}; check the file and its permissions") from error
    return header


class _Reader:
    """Reader of little-endian values; raises EOFError at the end."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.position = data, 0

    def take(self, length: int) -> bytes:
        if length > len(self.data) - self.position:
            raise EOFError
        self.position += length
        return self.data[self.position - length : self.position]

    def number(self, code: str) -> Any:
        (number,) = struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))
        return number

    def string(self) -> str:
        return self.take(self.number("Q")).decode()

    def value(self, kind: int) -> Any:
        """Read one value of metadata; of an array its length."""
        if kind == _STRING:
            return self.string()
        return ArrayLength(self.skip_array()) if kind == _ARRAY else self.number(_SCALARS[kind])

    def skip_array(self) -> int:
        kind, length = self.number("I"), int(self.number("Q"))
        if kind in _SCALARS:
            self.take(length * struct.calcsize("<" + _SCALARS[kind]))
            return length
        for _ in range(length):
            _ = self.take(self.number("Q")) if kind == _STRING else self.value(kind)
        return length

    def tensor(self) -> tuple[str, GgufTensor]:
        name, dimensions = self.string(), self.number("I")
        if dimensions > _MOST_DIMENSIONS:
            raise ValueError(f"tensor {name} has {dimensions} dimensions")
        shape = tuple(self.number("Q") for _ in range(dimensions))
        kind: str = gguf.GGMLQuantizationType(self.number("I")).name
        if math.prod(shape[:1]) % _block(kind)[0]:
            raise ValueError(f"tensor {name} has rows of {shape[0]} weights, which {kind} cannot hold")
        return name, GgufTensor(kind, shape, self.number("Q"))


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
    return Header(metadata, tensors, _align(reader.position, metadata))


def _check_positions(header: Header, length: int, path: Path) -> None:
    """Check that the tensors fill the file without gaps."""
    end = header.data_start
    expected = end
    for name, tensor in header.tensors.items():
        if tensor.offset != end - header.data_start:
            raise ValueError(f"tensor {name} does not follow the one before it")
        expected = end + tensor.size
        end = _align(expected, header.metadata)
    if not expected <= length <= end:
        raise ModelError(
            f"{path} has {length:,} bytes, and its header says {expected:,}: it is cut short or damaged; {_AGAIN}"
        )


def _block(kind: str) -> tuple[int, int]:
    """Count the weights and bytes in a block of this type."""
    weights, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    return int(weights), int(size)


def _align(position: int, metadata: dict[str, Any]) -> int:
    alignment = metadata.get("general.alignment", gguf.GGUF_DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"general.alignment is {alignment}")
    return -(-position // alignment) * alignment
