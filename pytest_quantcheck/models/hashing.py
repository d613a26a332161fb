"""SHA-256 of files, each read once while it does not change."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.user_files import stat_file


def sha256_of(path: Path) -> str:
    """Hash a file by SHA-256; it is read again only when it has changed.

    Raises:
        ModelError: it cannot be read, or is not a regular file.
    """
    try:
        status = stat_file(path)
        return _hash_file(path, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise unreadable(path, error.strerror) from error


def require_regular(path: Path) -> None:
    """Check that a file can be read, and ends.

    Raises:
        ModelError: it is not there, or is another kind of file, such as a pipe, which has no end.
    """
    try:
        stat_file(path)
    except OSError as error:
        raise unreadable(path, error.strerror) from error


def unreadable(path: Path, reason: str | None) -> ModelError:
    """Make the error for a file that cannot be read."""
    return ModelError(f"{path} cannot be read: {reason}; check the model's files")


@cache
def _hash_file(path: Path, size: int, _changed: int) -> str:
    if not size:  # a file of the kernel's says so, and may block its reader
        return hashlib.sha256().hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
