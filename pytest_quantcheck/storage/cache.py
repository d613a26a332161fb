"""Measurements that many runs share: one entry for each key, made by one process while the others wait for it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pytest_quantcheck.errors import StorageError
from pytest_quantcheck.records import Measurement
from pytest_quantcheck.storage.atomic import remove_unfinished, write_atomically
from pytest_quantcheck.storage.checkpoints import Checkpoint
from pytest_quantcheck.storage.measurements import load_measurement, save_measurement

KEY = "key.json"
MEASUREMENT = "measurement"

_PROBE = 1 << 20
"""Bytes that are written to find out whether there is room for anything."""


class Cache:
    """A directory of measurements for any number of processes, on one machine or several.

    An entry's folder is called by the SHA-256 of its key. The key itself lies in it and is compared with the one asked
    for, so that two keys never share a measurement.

    Processes keep out of each other's way by `flock`: a killed one lets go of its lock. On a network file system
    that takes one that carries `flock` to the server (NFS 4, or 3 with its lock daemon; not mounted with `nolock` or
    `local_lock`). Where there are no such locks at all, a file that names its holder takes their place; one that a
    killed process of another machine has left must be deleted by hand.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def check_writable(self) -> None:
        """Find out before anything heavy whether something can be kept here.

        Raises:
            StorageError: the directory cannot be made or written to, or its disk is full.
        """
        probe = self.directory / f".probe.{os.getpid()}"
        write_atomically(probe, bytes(_PROBE))
        probe.unlink(missing_ok=True)

    def entry(self, key: Mapping[str, Any]) -> Entry:
        """Return the entry of a key, JSON's own types all through; nothing is read or written yet.

        Raises:
            ValueError: a key that JSON cannot hold.
        """
        return Entry(self.directory, _canonical(key))


class Entry:
    """One measurement's place in a cache: `key.json`, `measurement/`, and `checkpoint/` while it is made.

        with entry.locked():
            if (found := entry.load()) is None:
                found = measure(..., checkpoint=entry.checkpoint)
                entry.save(found)

    `key`: the canonical JSON of all that the measurement depends on.
    """

    def __init__(self, cache: Path, key: bytes) -> None:
        self._key = key
        self.directory = cache / hashlib.sha256(key).hexdigest()

    @property
    def checkpoint(self) -> Checkpoint:
        """Where a measurement under way is kept; for who holds the lock."""
        return Checkpoint(self.directory / "checkpoint")

    @contextmanager
    def locked(self, waiting: Callable[[], object] | None = None) -> Iterator[None]:
        """Keep other processes out; they wait, and `waiting` is called once in those that have to.

        Raises:
            StorageError: the entry cannot be written to, or is that of another key.
        """
        lock = FileLock(self.directory.with_suffix(".lock"))
        with _acquired(lock, waiting):
            self._claim()
            yield

    def load(self) -> Measurement | None:
        """Return the measurement; None where there is none yet. No lock is needed.

        Raises:
            StorageError: it is damaged, or that of another key; names the file.
        """
        if not self._measurement.exists():
            return None
        self._check_key()
        return load_measurement(self._measurement)

    def save(self, measurement: Measurement) -> None:
        """Save the measurement, whole or not at all, and clear the checkpoint; for who holds the lock.

        Raises:
            StorageError: it cannot be written; the checkpoint stays.
        """
        self._claim()
        save_measurement(measurement, self._measurement)
        self.checkpoint.clear()
        remove_unfinished(self.directory)

    @property
    def _measurement(self) -> Path:
        return self.directory / MEASUREMENT

    def _claim(self) -> None:
        """Write the key, or find it there: no other one's measurement or checkpoint is used."""
        if (self.directory / KEY).exists() or self._measurement.exists() or self.checkpoint.directory.exists():
            self._check_key()
        else:
            write_atomically(self.directory / KEY, self._key)

    def _check_key(self) -> None:
        path = self.directory / KEY
        try:
            found = path.read_bytes()
        except OSError as problem:
            raise StorageError(f"cannot read {path}: {problem.strerror}; delete {self.directory}.") from problem
        if found != self._key:
            raise StorageError(
                f"{path} is not the key of this entry: it was changed or cut short, and what lies beside it cannot be "
                f"trusted; delete {self.directory}."
            )


def _canonical(key: Mapping[str, Any]) -> bytes:
    """The one JSON text of a key, whatever the order of its fields."""
    try:
        text = json.dumps(key, indent=2, sort_keys=True, allow_nan=False)
    except TypeError as problem:
        raise ValueError(f"Expected a key of JSON's own types, got one that is not: {problem}.") from None
    return f"{text}\n".encode()


@contextmanager
def _acquired(lock: FileLock, waiting: Callable[[], object] | None) -> Iterator[None]:
    path = Path(lock.lock_file)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if waiting is not None:
                waiting()
            lock.acquire()
    except OSError as problem:
        raise StorageError(
            f"cannot lock {path}: {problem.strerror or problem}; check the permissions and the free space, or choose "
            "another cache directory."
        ) from problem
    try:
        yield
    finally:
        lock.release()
