"""Places to write to: regular files in the directory that was named, wherever links lead."""

import os
import stat
from pathlib import Path

from pytest_quantcheck.errors import StorageError
from pytest_quantcheck.text import shortened
from pytest_quantcheck.user_files import describe_kind


def find_target(path: Path, *, folder: bool = False) -> Path:
    """Find where a file is written: its path without links, in the directory that was named.

    The directory may be a link to another one. A link in it must stay in it, and lead to a regular file or to nothing.

    Args:
        path: the file, in the directory that was named; neither need exist.
        folder: it is a folder of ours, not a file.

    Raises:
        StorageError: a link out of the directory, or what is no regular file; says what was found.
    """
    target, place = Path(os.path.realpath(path)), Path(os.path.realpath(path.parent))
    kind = stat.S_IFDIR if folder else stat.S_IFREG
    expected = f"{describe_kind(kind)} or nothing there"
    if not target.is_relative_to(place):
        raise _refusal(path, expected, f"a link to {target}, outside {place}")
    nearest, mode = _nearest_existing(target)
    if nearest != target:
        kind, expected = stat.S_IFDIR, f"a directory at {nearest}"
    if stat.S_IFMT(mode) != kind:
        raise _refusal(path, expected, describe_kind(mode))
    return target


def check_writable(flag: str, directory: Path, *files: str) -> None:
    """Refuse a directory that cannot be written to, before anything is measured.

    Args:
        flag: the option that names it.
        directory: it need not exist yet.
        files: what will be written in it.

    Raises:
        StorageError: names the nearest directory that exists, or the file's path that cannot be written to.
    """
    _check_access(flag, directory, Path(os.path.realpath(directory)))
    for name in files:
        find_target(directory / name)


def check_new(flag: str, directory: Path) -> None:
    """Refuse a directory that cannot be written as a whole.

    Args:
        flag: the option that names it.
        directory: it need not exist yet; an empty one is replaced.

    Raises:
        StorageError: it holds something, cannot be replaced, or the nearest directory that exists cannot be written.
    """
    target = Path(os.path.realpath(directory))
    is_there = stat.S_ISDIR(_mode(target))
    _check_access(flag, directory, target.parent if is_there else target)
    if not is_there:
        return
    if names := sorted(path.name for path in target.iterdir()):
        raise StorageError(
            f"{flag}={directory}: expected a new or an empty directory, found {shortened(names)} in it; choose another "
            "one"
        )
    if target.is_mount() or target == Path.cwd():
        raise StorageError(
            f"{flag}={directory}: expected a directory that can be replaced, found a mount point or the working "
            "directory; name a new one in it"
        )


def _check_access(flag: str, directory: Path, place: Path) -> None:
    nearest, _ = _nearest_existing(place)
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise StorageError(f"{flag}={directory}: {nearest} is not a directory that can be written; choose another one")


def _nearest_existing(path: Path) -> tuple[Path, int]:
    """Find the path, or the nearest one above that exists; and its mode."""
    return next((place, mode) for place in (path, *path.parents) if (mode := _mode(place)))


def _mode(path: Path) -> int:
    """Read a file's mode, its own where it is a link; 0 where it cannot be seen."""
    try:
        return path.lstat().st_mode
    except OSError:
        return 0


def _refusal(path: Path, expected: str, obtained: str) -> StorageError:
    return StorageError(
        f"cannot write {path}: expected {expected}, found {obtained}; it was left as it is: remove it or choose "
        "another place"
    )
