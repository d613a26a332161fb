"""Files that users name: regular files only, and no more bytes than they can need."""

import os
import stat
import sys
from errno import EFBIG, EINVAL
from pathlib import Path
from typing import Any

_MEGABYTE = 1 << 20
PROFILE_BYTES = _MEGABYTE
CONFIG_BYTES = SUMS_BYTES = 10 * _MEGABYTE
INDEX_BYTES = VOCABULARY_BYTES = 500 * _MEGABYTE
PROMPTS_BYTES = 1024 * _MEGABYTE

_KINDS = {
    stat.S_IFREG: "a regular file",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFLNK: "a link that leads to itself",
}


def stat_file(path: Path) -> os.stat_result:
    """Return the status of a regular file; links are followed.

    Raises:
        OSError: there is none, or it is no regular file, which could be endless; `strerror` is fit for a message.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(EINVAL, f"expected a regular file, found {describe_kind(found.st_mode)}", str(path))
    return found


def describe_kind(mode: int) -> str:
    """Return what a mode stands for, such as `a named pipe`.

    Links are followed before: one that is left leads to itself.
    """
    return _KINDS.get(stat.S_IFMT(mode), "something else")


def read_file(path: Path, most: int = sys.maxsize) -> bytes:
    """Return the content of a regular file of at most `most` bytes.

    No more is read than the file says that it has: one of the kernel's, below /proc, says 0, and may block its reader.

    Raises:
        OSError: as `stat_file`, it cannot be read, or it is larger.
    """
    size = stat_file(path).st_size
    if size > most:
        found = f"expected at most {most / _MEGABYTE:,.0f} MB, found {size / _MEGABYTE:,.1f} MB"
        raise OSError(EFBIG, found, str(path))
    with path.open("rb") as file:
        return file.read(size)


class RepeatedKeyError(ValueError):
    """A key that a JSON object has twice; some readers take the first value and others the last."""


def each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its pairs, as `object_pairs_hook` of a JSON reader.

    Raises:
        RepeatedKeyError: names a key that is there twice.
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise RepeatedKeyError(f"found the key {next(name for name in names if names.count(name) > 1)!r} twice")
    return found
