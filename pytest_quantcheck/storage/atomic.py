"""Files that are written whole or not at all: under a temporary name beside the target, synced, renamed."""

import os
import re
import secrets
from contextlib import suppress
from pathlib import Path

from pytest_quantcheck.errors import StorageError
from pytest_quantcheck.storage.places import find_target

_STALE = 24 * 60 * 60
"""Seconds after which a temporary file cannot belong to a living writer, by the file system's own clock."""


def write_atomically(path: Path, *data: bytes | memoryview) -> None:
    """Write one file, its parts one after another, and make its folders.

    Stopped at any point, it leaves the old file or the new one. A process that is killed may leave a hidden temporary
    file beside it, which the next write there removes once it is a day old.

    Raises:
        StorageError: it could not be written, or a link there leads out of its directory; what was there before is
            unchanged.
    """
    target = find_target(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _write(temporary, *data)
        temporary.replace(target)
        _sync(target.parent)
        with suppress(OSError):  # another writer may remove the same file, and this one may lack the permission
            _remove_stale(target)
    except OSError as problem:
        raise StorageError(
            f"cannot write {path}: {problem.strerror}. What was there before is unchanged; check the permissions and "
            "the free space, or choose another place."
        ) from problem
    finally:
        with suppress(OSError):
            temporary.unlink()


def remove_unfinished(directory: Path) -> None:
    """Remove the temporary files of killed processes; no other process may be writing in the directory."""
    for left in directory.glob(".*.tmp"):
        with suppress(OSError):
            left.unlink()


def _write(path: Path, *data: bytes | memoryview) -> None:
    with path.open("xb") as file:
        file.writelines(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    """Make names in a directory survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_stale(target: Path) -> None:
    """Remove temporary files a day older than their target."""
    temporary = re.compile(re.escape(f".{target.name}.") + r"[0-9a-f]{8}\.tmp")
    for entry in target.parent.iterdir():
        if temporary.fullmatch(entry.name) and target.stat().st_mtime - entry.stat().st_mtime > _STALE:
            entry.unlink()
