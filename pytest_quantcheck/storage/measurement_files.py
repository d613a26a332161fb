"""One measurement, one file: `measurement.safetensors`, with the document in the metadata of its header.

The file begins with the header's length (8 bytes, little-endian) and the header, which is JSON: `__metadata__`, then
dtype, shape and place of each array, padded with spaces. `__metadata__` has `sha256`, over the length and the header
without these 64 digits, and `measurement`, the text of a `Document`, which has the SHA-256 of the arrays.
"""

import hashlib
import io
import os
from pathlib import Path
from typing import BinaryIO

import msgspec
import safetensors.numpy
from safetensors import SafetensorError

from pytest_quantcheck.errors import StorageError
from pytest_quantcheck.records import SCHEMA, Measurement, Provenance
from pytest_quantcheck.storage.atomic import write_atomically
from pytest_quantcheck.storage.layout import Document, scalars, to_arrays, to_measurement
from pytest_quantcheck.user_files import read_file, stat_file

FILE = "measurement.safetensors"

_SCHEMA_2 = "measurement.json"
"""The document of a measurement of schema 2; its arrays lay beside it in `arrays.safetensors`."""

_START = b'{"__metadata__":{"sha256":"'
_DIGITS = slice(len(_START), len(_START) + 64)
"""Where in a header its own SHA-256 stands, in hexadecimal."""

_ALIGNMENT = 8
"""Bytes of which a header is a multiple, as safetensors wants it."""

_AGAIN = "delete the file and measure again, or restore it from where it came"
_OTHER_RELEASE = "measure again with this release, or use the release that wrote it"


class _Schema(msgspec.Struct):
    """The part of a document that every schema has."""

    schema: int


class _Metadata(msgspec.Struct):
    """The texts in the metadata of a header."""

    sha256: str
    measurement: str


class _Header(msgspec.Struct, rename={"metadata": "__metadata__"}):
    """The part of a header that is not safetensors' own."""

    metadata: _Metadata


def save_measurement(measurement: Measurement, directory: Path) -> None:
    """Save a measurement in a directory, in place of an older one.

    The file, `measurement.safetensors`, appears whole or not at all (see `write_atomically`). The same measurement
    always gives the same bytes. Arrays come back bit for bit, infinities included.

    Raises:
        StorageError: NaN in an array, a record that could not be loaded again, or a place that cannot be written;
            what was there before is unchanged.
    """
    try:
        parts = to_bytes(measurement, rounded=False)
    except ValueError as problem:
        raise refused(directory, problem) from None
    write_atomically(directory / FILE, *parts)


def load_measurement(directory: Path) -> Measurement:
    """Load a measurement that `save_measurement` or `save_baseline` wrote.

    Raises:
        StorageError: the file is missing, malformed, of another schema, or not the one that was saved.
    """
    path = directory / FILE
    try:
        data = read_file(path)
    except OSError as problem:
        raise _unreadable(directory, problem) from None
    document = _read_document(path, io.BytesIO(data), len(data))
    digest = _sha256(memoryview(data)[len(data) - document.arrays_bytes :])
    if digest != document.arrays:
        raise _changed(path, f"arrays of sha256 {document.arrays}", digest)
    try:
        return to_measurement(document, safetensors.numpy.load(data))
    except (SafetensorError, KeyError, ValueError) as problem:
        raise _malformed(path, problem) from None


def load_provenance(directory: Path, *, verify: bool = False) -> Provenance:
    """Load where a stored measurement comes from, from the header.

    Args:
        directory: where the measurement lies.
        verify: also read the arrays and check their hash; else only their size is checked.

    Raises:
        StorageError: the file is missing or of another size, or its header is malformed, of another schema, or not the
            one that was saved; with `verify`, the same of the arrays.
    """
    path = directory / FILE
    try:
        stat_file(path)
        with path.open("rb") as file:
            document = _read_document(path, file, os.fstat(file.fileno()).st_size)
            digest = hashlib.file_digest(file, "sha256").hexdigest() if verify else document.arrays
    except OSError as problem:
        raise _unreadable(directory, problem) from None
    if digest != document.arrays:
        raise _changed(path, f"arrays of sha256 {document.arrays}", digest)
    return document.provenance


def holds_measurement(directory: Path) -> bool:
    """Tell whether a directory holds a measurement, one of schema 2 included."""
    return any((directory / name).exists() for name in (FILE, _SCHEMA_2))


def to_bytes(measurement: Measurement, *, rounded: bool) -> tuple[bytes, memoryview]:
    """Encode a measurement's file in two parts: its head, and its arrays.

    Args:
        measurement: what is to be stored.
        rounded: store correlations as a baseline has them.

    Raises:
        ValueError: what cannot be saved.
    """
    data = safetensors.numpy.save(to_arrays(measurement, rounded=rounded))
    start = 8 + int.from_bytes(data[:8], "little")
    arrays = memoryview(data)[start:]
    document = Document(
        schema=SCHEMA, arrays=_sha256(arrays), arrays_bytes=len(arrays), rounded=rounded, **scalars(measurement)
    )
    return _file_head(_encode(document), data[8:start].rstrip(b" ")), arrays


def refused(directory: Path, problem: ValueError) -> StorageError:
    """Make the error for a measurement that cannot be saved."""
    return StorageError(f"cannot save a measurement in {directory}: {problem}.")


def _encode(document: Document) -> bytes:
    """Encode a document as JSON and check that it comes back: NaN would become null, a tuple a list."""
    try:
        text = msgspec.json.encode(document)
    except (TypeError, OverflowError) as problem:
        raise ValueError(f"its provenance does not fit into JSON: {problem}") from None
    if msgspec.json.decode(text, type=Document) != document:
        raise ValueError("expected a provenance of JSON's own types, got one that JSON would change")
    return text


def _file_head(document: bytes, table: bytes) -> bytes:
    """Join the length and the header of a file: a document, and safetensors' own table of arrays."""
    text = msgspec.json.encode(document.decode())
    header = b'%s%064d","measurement":%s},%s' % (_START, 0, text, table[1:])
    header += b" " * (-len(header) % _ALIGNMENT)
    length = len(header).to_bytes(8, "little")
    digest = _seal(length, header).encode()
    return length + header[: _DIGITS.start] + digest + header[_DIGITS.stop :]


def _read_document(path: Path, file: BinaryIO, size: int) -> Document:
    """Read and verify the head of a file, and the file's size."""
    length = file.read(8)
    n = int.from_bytes(length, "little")
    if n > size - 8:
        raise _malformed(path, f"expected a header of {n} bytes, got a file of {size}")
    header = file.read(n)
    try:
        metadata = msgspec.json.decode(header, type=_Header).metadata
        _check_schema(path, msgspec.json.decode(metadata.measurement, type=_Schema).schema)
        document = msgspec.json.decode(metadata.measurement, type=Document)
    except (ValueError, RecursionError) as problem:
        raise _malformed(path, problem) from None
    if (digest := _seal(length, header)) != metadata.sha256:
        raise _changed(path, f"a header of sha256 {metadata.sha256}", digest)
    if (expected := 8 + n + document.arrays_bytes) != size:
        raise _changed(path, f"{expected} bytes", f"{size} bytes")
    return document


def _check_schema(path: Path, schema: int) -> None:
    if schema != SCHEMA:
        raise StorageError(f"{path} has schema {schema}, and this release reads schema {SCHEMA}; {_OTHER_RELEASE}.")


def _seal(length: bytes, header: bytes) -> str:
    """Hash a head by SHA-256, its own digits left out."""
    return _sha256(length + header[: _DIGITS.start] + header[_DIGITS.stop :])


def _sha256(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def _unreadable(directory: Path, problem: OSError) -> StorageError:
    path = directory / FILE
    if not isinstance(problem, FileNotFoundError | NotADirectoryError):
        return StorageError(f"cannot read {path}: {problem.strerror}; check its permissions and the disk.")
    if (directory / _SCHEMA_2).exists():
        return StorageError(
            f"{directory} holds a measurement of schema 2 ({_SCHEMA_2} beside arrays.safetensors), and this release "
            f"reads schema {SCHEMA} ({FILE}); delete the directory and {_OTHER_RELEASE}."
        )
    return StorageError(
        f"{path} does not exist: expected a stored measurement; check the path, or measure and save it there."
    )


def _changed(path: Path, expected: str, obtained: str) -> StorageError:
    return StorageError(
        f"{path} is not what was saved: expected {expected}, got {obtained}. It was cut short or changed; {_AGAIN}."
    )


def _malformed(path: Path, problem: object) -> StorageError:
    return StorageError(f"{path} is malformed: {problem}; {_AGAIN}.")
