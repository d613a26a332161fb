"""One measurement, one directory: `measurement.json` beside `arrays.safetensors`."""

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from pytest_quantcheck.errors import StorageError
from pytest_quantcheck.records import SCHEMA, Measurement, Provenance
from pytest_quantcheck.storage.atomic import write_directory_atomically
from pytest_quantcheck.storage.layout import Document, scalars, to_arrays, to_measurement

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
    try:
        files = to_files(measurement, rounded=False)
    except ValueError as problem:
        raise refused(directory, problem) from None
    write_directory_atomically(directory, files)


def load_measurement(directory: Path) -> Measurement:
    """Load a measurement that `save_measurement` or `save_baseline` wrote.

    Raises:
        StorageError: a file is missing, malformed, of another schema, or not the one that was saved.
    """
    document = _decode(directory / DOCUMENT)
    path = directory / ARRAYS
    arrays = _load_arrays(path, document)
    try:
        return to_measurement(document, arrays)
    except ValueError as problem:
        raise _malformed(path, problem) from None


def load_provenance(directory: Path) -> Provenance:
    """Load where a stored measurement comes from; of its arrays only the size is looked at.

    Raises:
        StorageError: a file is missing or of another size, or the document is malformed, of another schema, or not the
            one that was saved.
    """
    document = _decode(directory / DOCUMENT)
    path = directory / ARRAYS
    try:
        size = path.stat().st_size
    except OSError as problem:
        raise _unreadable(path, problem) from None
    if size != document.arrays_bytes:
        raise _changed(path, f"{document.arrays_bytes} bytes", f"{size} bytes")
    return document.provenance


def to_files(measurement: Measurement, *, rounded: bool) -> dict[str, bytes]:
    """Return the content of a measurement's two files by name, its correlations `rounded` or exact.

    Raises:
        ValueError: what cannot be saved.
    """
    data = safetensors.numpy.save(to_arrays(measurement, rounded=rounded))
    document = Document(
        schema=SCHEMA,
        sha256="",
        arrays=_sha256(data),
        arrays_bytes=len(data),
        rounded=rounded,
        **scalars(measurement),
    )
    head = _encode(document)
    if msgspec.structs.replace(msgspec.json.decode(head, type=Document), sha256="") != document:
        raise ValueError("expected a provenance of JSON's own types, got one that JSON would change")
    return {ARRAYS: data, DOCUMENT: head}


def refused(directory: Path, problem: ValueError) -> StorageError:
    """The error for a measurement that cannot be saved."""
    return StorageError(f"cannot save a measurement in {directory}: {problem}.")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _encode(document: Document) -> bytes:
    """Encode a document with its own hash in it; a document has one encoding, and no other file is taken for it."""
    sealed = msgspec.structs.replace(document, sha256=_digest(document))
    return _json(sealed)


def _digest(document: Document) -> str:
    return _sha256(_json(msgspec.structs.replace(document, sha256="")))


def _json(document: Document) -> bytes:
    """Encode a document; NaN becomes null, a tuple a list."""
    try:
        return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
    except (TypeError, OverflowError) as problem:
        raise ValueError(f"its provenance does not fit into JSON: {problem}") from None


def _decode(path: Path) -> Document:
    data = _read(path)
    try:
        schema = msgspec.json.decode(data, type=_Head).schema
        if schema != SCHEMA:
            raise StorageError(
                f"{path} has schema {schema}, and this release reads schema {SCHEMA}; measure again with this release, "
                "or use the release that wrote it."
            )
        document = msgspec.json.decode(data, type=Document)
        digest, written = _digest(document), _json(document)
    except (msgspec.DecodeError, ValueError, RecursionError) as problem:
        raise _malformed(path, problem) from None
    if digest != document.sha256:
        raise _changed(path, f"sha256 {document.sha256}", digest)
    if data != written:
        raise _changed(path, "the very bytes that were written", "the same values in another form")
    return document


def _load_arrays(path: Path, document: Document) -> dict[str, NDArray[Any]]:
    data = _read(path)
    digest = _sha256(data)
    if digest != document.arrays:
        expected = f"sha256 {document.arrays} of {document.arrays_bytes} bytes"
        raise _changed(path, expected, f"{digest} of {len(data)} bytes")
    try:
        arrays: dict[str, NDArray[Any]] = safetensors.numpy.load(data)
    except (SafetensorError, KeyError, ValueError) as problem:
        raise _malformed(path, problem) from None
    return arrays


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise _unreadable(path, problem) from None


def _unreadable(path: Path, problem: OSError) -> StorageError:
    if isinstance(problem, FileNotFoundError | NotADirectoryError):
        return StorageError(
            f"{path} does not exist: expected a measurement, {DOCUMENT} beside {ARRAYS}; check the path, or measure "
            "and save it there."
        )
    return StorageError(f"cannot read {path}: {problem.strerror}; check its permissions and the disk.")


def _changed(path: Path, expected: str, obtained: str) -> StorageError:
    return StorageError(
        f"{path} is not what was saved: expected {expected}, got {obtained}. It was cut short or changed, or belongs "
        f"to another measurement; {_AGAIN}."
    )


def _malformed(path: Path, problem: Exception) -> StorageError:
    return StorageError(f"{path} is malformed: {problem}; {_AGAIN}.")
