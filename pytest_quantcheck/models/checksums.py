"""`SHA256SUMS` beside a model's files, as `sha256sum` writes it: read, verified, and what it covers."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.plurals import counted, plural
from pytest_quantcheck.user_files import SUMS_BYTES, read_file, stat_file

SUMS = "SHA256SUMS"
"""Name of the file that `sha256sum * > SHA256SUMS` writes."""

_LINE = re.compile(r"(\\?)([0-9a-f]{64}) [ *]?(.+)", re.IGNORECASE)
_ESCAPES = {"\\\\": "\\", "\\n": "\n", "\\r": "\r"}
_AGAIN = f"fetch the model again, or write {SUMS} again with sha256sum if the files are as they should be"


def read_sums(folder: Path) -> dict[str, str] | None:
    """Return the SHA-256 of each file that a folder's sums name; None where there are no sums.

    Raises:
        ModelError: they cannot be read, are empty or malformed, or name a file outside the folder.
    """
    path = folder / SUMS
    if not path.exists() and not path.is_symlink():
        return None
    sums: dict[str, str] = {}
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if line.strip() and not line.startswith("#"):
            name, expected = _read_line(line.removesuffix("\r"), f"{path}, line {number}")
            if sums.setdefault(name, expected) != expected:
                raise ModelError(f"{path}, line {number} names {name!r} twice, with another hash; {_AGAIN}")
    sums.pop(SUMS, None)  # its own line, from when it was written over, can never hold
    if not sums:
        raise ModelError(f"{path} names no file: expected a line for each, as sha256sum writes them; {_AGAIN}")
    return sums


def verify_sums(folder: Path, sums: Mapping[str, str], *, whole: bool, most_bytes: float = math.inf) -> list[str]:
    """Verify each file that the sums name, small files first.

    Args:
        folder: where the files are.
        sums: from `read_sums`.
        whole: whether each file that is named must be there.
        most_bytes: bytes to read at most.

    Returns:
        The names of files that were left out, as they would be more than `most_bytes`.

    Raises:
        ModelError: a file differs from its hash, or is absent.
    """
    sizes = {name: file_size(folder / name) for name in sums}
    absent = next((name for name, size in sizes.items() if size is None), None)
    if whole and absent is not None:
        raise ModelError(f"{folder / SUMS} names {absent!r}, and there is no such file; {_AGAIN}")
    left_out = []
    for name, size in sorted(((name, size) for name, size in sizes.items() if size is not None), key=lambda it: it[1]):
        most_bytes -= size
        if most_bytes < 0:
            left_out.append(name)
        elif (found := sha256_of(folder / name)) != sums[name]:
            raise ModelError(
                f"{folder / name} is not the file that {SUMS} beside it names: expected sha256 {sums[name]}, got "
                f"{found}. The file was changed: fetch the model again, or update {SUMS} if you changed it."
            )
    return left_out


def describe_coverage(files: Collection[str], sums: Collection[str]) -> str:
    """Say which of a model's files their sums cover, weights first."""
    missing = sorted(set(files).difference(sums), key=lambda name: (not name.endswith((".safetensors", ".bin")), name))
    if not missing:
        return f"covers all {counted(len(files), 'file')}, and each has the hash that it names"
    named, more = missing[:2], len(missing) - 2
    words = f"{', '.join(named)} and {more} more" if more > 0 else " and ".join(named)
    return (
        f"covers {len(files) - len(missing)} of {counted(len(files), 'file')}; {words} "
        f"{plural(len(missing), 'is', 'are')} not covered"
    )


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256; the file is read again only when it has changed.

    Raises:
        ModelError: it cannot be read, or is not a regular file.
    """
    try:
        found = stat_file(path)
        return _hash(path, found.st_size, found.st_mtime_ns)
    except OSError as error:
        raise unreadable(path, error.strerror) from error


def require_regular(path: Path) -> os.stat_result:
    """Return what the system says of a regular file.

    Raises:
        ModelError: it is not there, or is another kind of file, such as a pipe, which has no end.
    """
    try:
        return stat_file(path)
    except OSError as error:
        raise unreadable(path, error.strerror) from error


def file_size(path: Path) -> int | None:
    """Return the bytes of a regular file; None where there is none."""
    try:
        return stat_file(path).st_size
    except (OSError, ValueError):
        return None


def unreadable(path: Path, reason: str | None) -> ModelError:
    """Make the error for a file that cannot be read."""
    return ModelError(f"{path} cannot be read: {reason}; check the model's files")


@cache
def _hash(path: Path, _size: int, _changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_text(path: Path) -> str:
    try:
        return read_file(path, SUMS_BYTES).decode("utf-8", "surrogateescape")
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}; {_AGAIN}") from error


def _read_line(line: str, place: str) -> tuple[str, str]:
    """Return a file's name and its SHA-256, in small letters."""
    match = _LINE.fullmatch(line)
    if match is None:
        raise ModelError(
            f"{place}: expected a SHA-256 in 64 hexadecimal digits and a file name, got {line[:80]!r}; {_AGAIN}"
        )
    escaped, expected, name = match.groups()
    if escaped:
        name = re.sub(r"\\.", lambda found: _ESCAPES.get(found[0], found[0]), name)
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise ModelError(f"{place} names {name!r}, which is not in the model's directory; {_AGAIN}")
    return str(path), expected.lower()
