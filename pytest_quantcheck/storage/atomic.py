"""Files and directories written whole or not at all: under a temporary name beside the target, synced, renamed."""

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
    with _replacing(path, target) as temporary:
        _write(temporary, *data)


@contextmanager
def write_directory(path: Path) -> Iterator[Path]:
    """Yield a folder to be filled with files; afterwards it is the directory.

    The directory must be new or empty (`places.check_new`). Where the block fails, the folder is removed; a process
    that is killed may leave it, as `write_atomically` says.

    Raises:
        StorageError: it could not be written; what was there before is unchanged.
    """
    target = Path(os.path.realpath(path))
    with _replacing(path, target) as temporary:
        temporary.mkdir()
        yield temporary
        for file in filter(Path.is_file, temporary.rglob("*")):
            file.chmod(temporary.stat().st_mode & 0o666)  # safetensors lets its owner alone read a file
            _sync(file)
        _sync(temporary)


@contextmanager
def _replacing(path: Path, target: Path) -> Iterator[Path]:
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
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
            _remove(temporary)


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


def _sync(path: Path) -> None:
    """Make a file's content or a directory's names survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_stale(target: Path) -> None:
    """Remove temporary files a day older than their target; directories where it is one."""
    temporary = re.compile(re.escape(f".{target.name}.") + r"[0-9a-f]{8}\.tmp")
    for entry in filter(lambda path: temporary.fullmatch(path.name), target.parent.iterdir()):
        if entry.is_dir() == target.is_dir() and target.stat().st_mtime - entry.stat().st_mtime > _STALE:
            _remove(entry)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
