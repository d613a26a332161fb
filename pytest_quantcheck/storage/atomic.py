"""Files that are written whole or not at all: under a temporary name beside the target, synced, renamed."""

import ctypes
import errno
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from pytest_quantcheck.errors import StorageError

_AT_FDCWD = -100  # <fcntl.h>: paths are relative to the working directory
_RENAME_EXCHANGE = 2  # <linux/fs.h>

_STALE = 24 * 60 * 60
"""Seconds after which a temporary name cannot be a living writer's, by the file system's own clock."""


def check_writable(flag: str, directory: Path) -> None:
    """Refuse a directory in which nothing can be written, before hours are spent.

    Args:
        flag: the option that names it.
        directory: it need not be there yet.

    Raises:
        StorageError: names the nearest directory that is there.
    """
    nearest = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise StorageError(f"{flag}={directory}: {nearest} is not a directory that can be written; choose another one")


def write_atomically(path: Path, data: bytes) -> None:
    """Write one file, making its folders; stopped at any point, it leaves the old file or the new one.

    A process that is killed may leave a hidden temporary file beside it, which the next write there removes once it is
    a day old.

    Raises:
        StorageError: it could not be written; what was there before is unchanged.
    """
    with _making(path) as (target, temporary):
        _write(temporary, data)
        temporary.replace(target)


def remove_unfinished(directory: Path) -> None:
    """Remove what killed processes have left half written in a directory; nobody else may be writing there."""
    for left in directory.glob(".*.tmp"):
        _remove(left)


def write_directory_atomically(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a directory of `files` (name to content) that takes the place of an older one as a whole.

    Stopped at any point, it leaves the old directory or the new one. Where the system cannot exchange two names
    at once (other than Linux, some network file systems), replacing takes two renames, and a process killed
    between them leaves the old directory under a hidden name beside it.

    Raises:
        StorageError: it could not be written, or the directory there holds files of another name, which would be
            lost; what was there before is unchanged.
    """
    with _making(path) as (target, temporary):
        _refuse_foreign(target, files)
        temporary.mkdir()
        for name, data in files.items():
            _write(temporary / name, data)
        _sync(temporary)
        _put_in_place(temporary, target)


@contextmanager
def _making(path: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the target and a temporary name in the same folder; nothing is left under the latter.

    What killed writers of the same target left there long ago is removed, too, once the new one is in its place.
    """
    target = path.resolve()
    temporary = _hidden(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield target, temporary
        _sync(target.parent)
        with suppress(OSError):  # another writer removes the same, or may, and this one may not
            _remove_stale(target)
    except OSError as problem:
        raise StorageError(
            f"cannot write {path}: {problem.strerror}. What was there before is unchanged; check the permissions and "
            "the free space, or choose another place."
        ) from problem
    finally:
        _remove(temporary)


def _hidden(target: Path) -> Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    """Make names in a directory survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)  # does nothing to a file
    with suppress(OSError):
        path.unlink()


def _remove_stale(target: Path) -> None:
    """Remove temporary files and directories of the target that are a day older than the target itself."""
    temporary = re.compile(re.escape(f".{target.name}.") + r"[0-9a-f]{8}\.tmp")
    for entry in target.parent.iterdir():
        if temporary.fullmatch(entry.name) and target.stat().st_mtime - entry.stat().st_mtime > _STALE:
            _remove(entry)


def _refuse_foreign(target: Path, files: Mapping[str, bytes]) -> None:
    foreign = sorted(entry.name for entry in target.iterdir() if entry.name not in files) if target.is_dir() else []
    if foreign:
        raise StorageError(
            f"expected {target} to be empty or to hold only {' and '.join(sorted(files))}, found {foreign[0]} as "
            f"well, which would be lost; choose a directory of its own."
        )


def _put_in_place(fresh: Path, target: Path) -> None:
    try:
        fresh.rename(target)  # over nothing, or over an empty directory
    except OSError as problem:
        if problem.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if not _exchange(fresh, target):
            _exchange_in_two_steps(fresh, target)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names at once; False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    return rename is not None and not rename(
        _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE
    )


def _exchange_in_two_steps(fresh: Path, target: Path) -> None:
    aside = _hidden(target)
    target.rename(aside)
    try:
        fresh.rename(target)
    except OSError:
        aside.rename(target)
        raise
    aside.rename(fresh)
