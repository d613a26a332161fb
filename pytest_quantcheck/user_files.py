"""Files that users name: regular files only, and no more bytes than they can need."""

import os
import stat
from errno import EFBIG, EINVAL
from pathlib import Path

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


def read_file(path: Path, most: int) -> bytes:
    """Return the content of a regular file of at most `most` bytes.

    Raises:
        OSError: as `stat_file`, it cannot be read, or it is larger.
    """
    size = stat_file(path).st_size
    with path.open("rb") as file:
        data = file.read(most + 1) if size <= most else b""
    if max(size, len(data)) > most:
        raise OSError(
            EFBIG,
            f"expected at most {most / _MEGABYTE:,.0f} MB, found {max(size, len(data)) / _MEGABYTE:,.1f} MB",
            str(path),
        )
    return data
