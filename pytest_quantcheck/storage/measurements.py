"""One measurement, one directory: `measurement.json` beside `arrays.safetensors`."""

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from ..errors import StorageError
from ..records import SCHEMA, Measurement
from .atomic import write_directory_atomically
from .layout import Arrays, Document, to_arrays, to_document, to_measurement

DOCUMENT = "measurement.json"
ARRAYS = "arrays.safetensors"

_AGAIN = "delete the directory and measure again, or restore it from where it came"


class _Head(msgspec.Struct):
    """All that is read before the schema is known to be ours."""

    schema: int


def save_measurement(measurement: Measurement, directory: Path) -> None:
    """Save a measurement as a directory of two files, in place of an older measurement.

    The directory appears whole or not at all (see `write_directory_atomically`). The same measurement always gives
    the same bytes. Arrays come back bit for bit, infinities included.

    Raises:
        StorageError: NaN in an array, a record that could not be loaded again, or a place that cannot be written;
            what was there before is unchanged.
    """
    arrays = to_arrays(measurement)
    try:
        _check_values(arrays)
        data = safetensors.numpy.save(arrays)
        document = to_document(measurement, arrays=_sha256(data))
        to_measurement(document, arrays)
        head = _encode(document)
    except ValueError as problem:
        raise StorageError(f"cannot save a measurement in {directory}: {problem}.") from None
    write_directory_atomically(directory, {ARRAYS: data, DOCUMENT: head})


def load_measurement(directory: Path) -> Measurement:
    """Load a measurement that `save_measurement` wrote.

    Raises:
        StorageError: a file is missing, malformed, of another schema, or not the one that was saved.
    """
    document = _decode(directory / DOCUMENT)
    path = directory / ARRAYS
    arrays = _load_arrays(path, expected=document.arrays)
    try:
        return to_measurement(document, arrays)
    except ValueError as problem:
        raise _malformed(path, problem) from None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _check_values(arrays: Arrays) -> None:
    for name, array in arrays.items():
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise ValueError(f"expected numbers, got NaN in {np.isnan(array).sum()} of {array.size} in {name}")


def _encode(document: Document) -> bytes:
    """Encode a document; what JSON cannot hold (NaN becomes null, a tuple a list) is refused."""
    try:
        data = msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
    except (TypeError, OverflowError) as problem:
        raise ValueError(f"its provenance does not fit into JSON: {problem}") from None
    if msgspec.json.decode(data, type=Document) != document:
        raise ValueError("expected a provenance of JSON's own types, got one that JSON would change")
    return data


def _decode(path: Path) -> Document:
    data = _read(path)
    try:
        schema = msgspec.json.decode(data, type=_Head).schema
        if schema == SCHEMA:
            return msgspec.json.decode(data, type=Document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise _malformed(path, problem) from None
    raise StorageError(
        f"{path} has schema {schema}, and this release reads schema {SCHEMA}; measure again with this release, or use "
        "the release that wrote it."
    )


def _load_arrays(path: Path, *, expected: str) -> dict[str, NDArray[Any]]:
    data = _read(path)
    obtained = _sha256(data)
    if obtained != expected:
        raise StorageError(
            f"{path} is not what was saved with {DOCUMENT}: expected sha256 {expected}, got {obtained} of "
            f"{len(data)} bytes. It was cut short or changed; {_AGAIN}."
        )
    try:
        arrays: dict[str, NDArray[Any]] = safetensors.numpy.load(data)
    except (SafetensorError, KeyError, ValueError) as problem:
        raise _malformed(path, problem) from None
    return arrays


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise StorageError(
            f"{path} does not exist: expected a measurement, {DOCUMENT} beside {ARRAYS}; check the path, or measure "
            "and save it there."
        ) from None
    except OSError as problem:
        raise StorageError(f"cannot read {path}: {problem.strerror}; check its permissions and the disk.") from problem


def _malformed(path: Path, problem: Exception) -> StorageError:
    return StorageError(f"{path} is malformed: {problem}; {_AGAIN}.")
