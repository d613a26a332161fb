"""`SHA256SUMS` beside a model's files, as `sha256sum` writes it: read, verified, and what it covers."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.models.files import SUMS, ModelFiles
from pytest_quantcheck.models.hashing import sha256_of
from pytest_quantcheck.text import counted, plural, shortened
from pytest_quantcheck.user_files import SUMS_BYTES, read_file, stat_file

_LINE = re.compile(r"(?P<escaped>\\?)(?P<sum>[0-9a-f]{64}) [ *]?(?P<name>.+)", re.IGNORECASE)
_TAGGED = re.compile(r"(?P<escaped>\\?)SHA256 \((?P<name>.+)\) = (?P<sum>[0-9a-f]{64})", re.IGNORECASE)
_ESCAPES = {"\\\\": "\\", "\\n": "\n", "\\r": "\r"}
_AGAIN = f"fetch the model again, or write {SUMS} again with sha256sum if the files are as they should be"


def has_sums(files: ModelFiles) -> bool:
    """Say whether checksums lie beside a model's files."""
    return os.path.lexists(files.folder / SUMS)


def read_sums(folder: Path) -> dict[str, str] | None:
    """Read the SHA-256 of each file that a folder's sums name; None where there are no sums.

    Raises:
        ModelError: they cannot be read, are empty or malformed, or name a file outside the folder.
    """
    path = folder / SUMS
    if not os.path.lexists(path):
        return None
    sums: dict[str, str] = {}
    for number, line in enumerate(_sums_text(path).split("\n"), start=1):
        if line.strip() and not line.startswith("#"):
            name, expected = _read_line(line.removesuffix("\r"), f"{path}, line {number}")
            if sums.setdefault(name, expected) != expected:
                raise ModelError(f"{path}, line {number} names {name!r} twice, with another hash; {_AGAIN}")
    sums.pop(SUMS, None)  # its own line, from when it was written over, can never hold
    if not sums:
        raise ModelError(f"{path} names no file: expected a line for each, as sha256sum writes them; {_AGAIN}")
    return sums


def verify(files: ModelFiles, most_bytes: float = math.inf) -> list[str] | None:
    """Verify a model's files by the `SHA256SUMS` beside them, small files first.

    Of a model that is one file, only that file; of a hub id, what was fetched.

    Args:
        files: the model's.
        most_bytes: bytes to read at most.

    Returns:
        The names of files that were left out, as they would be more than `most_bytes`; None without sums.

    Raises:
        ModelError: a file differs from its hash or is absent, or the sums are malformed.
    """
    folder = files.folder
    if (sums := read_sums(folder)) is None:
        return None
    if files.is_one_file:
        sums = {name: expected for name, expected in sums.items() if name in files.names}
    sizes = {name: _file_size(folder / name) for name in sums}
    absent = next((name for name, size in sizes.items() if size is None), None)
    if absent is not None and not files.fetched:
        raise ModelError(f"{folder / SUMS} names {absent!r}, and there is no such file; {_AGAIN}")
    left_out = []
    for name, size in sorted(((name, size) for name, size in sizes.items() if size is not None), key=lambda it: it[1]):
        most_bytes -= size
        if most_bytes < 0:
            left_out.append(name)
        elif (digest := sha256_of(folder / name)) != sums[name]:
            raise ModelError(
                f"{folder / name} is not the file that {SUMS} beside it names: expected sha256 {sums[name]}, got "
                f"{digest}. The file was changed: fetch the model again, or update {SUMS} if you changed it."
            )
    return left_out


def describe_files(files: ModelFiles) -> str:
    """Describe a model's files: hash, checksums, and what was not read."""
    hashed, sums = f"the sha256 {files.content_hash}", read_sums(files.folder)
    if files.is_one_file:
        coverage = _describe_one(files.names[0], sums)
        return f"its file has {hashed}{',' if sums is None else ';'} {coverage}"
    unread = f"; not read: {shortened(files.unread, most=2)}" if files.unread else ""
    if sums is None:
        return f"its files have {hashed}, and no {SUMS} beside them says whether they were changed{unread}"
    return f"its files have {hashed}; {SUMS} beside them {_describe_coverage(files.names, sums)}{unread}"


def _describe_one(name: str, sums: Mapping[str, str] | None) -> str:
    if sums is None:
        return f"and no {SUMS} beside it says whether it was changed"
    covers = "covers it, and it has the hash that it names" if name in sums else "does not cover it"
    return f"{SUMS} beside it {covers}"


def _describe_coverage(files: Collection[str], sums: Collection[str]) -> str:
    """Say which of a model's files their sums cover, weights first."""
    missing = sorted(set(files).difference(sums), key=lambda name: (not name.endswith((".safetensors", ".bin")), name))
    if not missing:
        return f"covers all {counted(len(files), 'file')}, and each has the hash that it names"
    return (
        f"covers {len(files) - len(missing)} of {counted(len(files), 'file')}; {shortened(missing, most=2)} "
        f"{plural(len(missing), 'is', 'are')} not covered"
    )


def _file_size(path: Path) -> int | None:
    """Count the bytes of a regular file; None where there is none."""
    try:
        return stat_file(path).st_size
    except (OSError, ValueError):
        return None


def _sums_text(path: Path) -> str:
    try:
        return read_file(path, SUMS_BYTES).decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}; {_AGAIN}") from error


def _read_line(line: str, place: str) -> tuple[str, str]:
    """Read a file's name and its SHA-256, in small letters."""
    match = _LINE.fullmatch(line) or _TAGGED.fullmatch(line)
    if match is None:
        raise ModelError(
            f"{place}: expected a SHA-256 in 64 hexadecimal digits and a file name, got {line[:80]!r}; {_AGAIN}"
        )
    name = match["name"]
    if match["escaped"]:
        name = re.sub(r"\\.", lambda escape: _ESCAPES.get(escape[0], escape[0]), name)
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if name.startswith("/") or ".." in parts:
        raise ModelError(f"{place} names {name!r}, which is not in the model's directory; {_AGAIN}")
    return "/".join(parts) or ".", match["sum"].lower()
