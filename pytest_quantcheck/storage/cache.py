"""Measurements that many runs share: one entry for each key, made by one process while the others wait for it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain, count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pytest_quantcheck.errors import StorageError
from pytest_quantcheck.records import Measurement
from pytest_quantcheck.storage.atomic import remove_unfinished, write_atomically
from pytest_quantcheck.storage.measurement_files import FILE, holds_measurement, load_measurement, save_measurement
from pytest_quantcheck.storage.places import find_target
from pytest_quantcheck.user_files import read_file

KEY = "key.json"

_PROBE = 1 << 20
"""Bytes written to find out whether the disk is full."""


class Cache:
    """A directory of measurements shared by processes, on one machine or several.

    The name of an entry's folder is the SHA-256 of its key. The key itself lies in the folder and is compared with the
    one asked for, so that two keys never share a measurement.

    Processes lock an entry with `flock`; the system releases the lock of a killed process. A network file system must
    carry `flock` to its server (NFS 4, or 3 with its lock daemon; not mounted with `nolock` or `local_lock`). On a
    file system without `flock`, a file that names its holder is the lock; one that a killed process of another machine
    left must be deleted by hand.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def check_writable(self) -> None:
        """Check that a measurement could be kept here, before anything is loaded.

        Raises:
            StorageError: the directory cannot be made or written to, or its disk is full.
        """
        probe = self.directory / f".probe.{os.getpid()}"
        write_atomically(probe, bytes(_PROBE))
        probe.unlink(missing_ok=True)

    def entry(self, key: Mapping[str, Any], origin: Mapping[str, Any] | None = None) -> Entry:
        """Find the entry of a key of JSON types; nothing is read or written yet.

        Args:
            key: all that decides the measurement.
            origin: what its provenance must say, by field.

        Raises:
            ValueError: a key that JSON cannot hold.
        """
        return Entry(self.directory, _canonical(key), origin or {})


class Entry:
    """One measurement's place in a cache.

    The folder holds `key.json`, `measurement.safetensors`, and `shards/` while the measurement is made.

        with entry.locked():
            if (measurement := entry.load_or_set_aside()) is None:
                measurement = measure(..., finished=entry)
                entry.save(measurement)

    What is damaged or belongs to another key is set aside under another name, which `remarks` say, and measured again.

    `key`: the canonical JSON of all that the measurement depends on. `origin`: what its provenance must say, by field.
    """

    def __init__(self, cache: Path, key: bytes, origin: Mapping[str, Any]) -> None:
        self._key, self._origin = key, origin
        self.directory = cache / hashlib.sha256(key).hexdigest()
        self.remarks: list[str] = []

    @property
    def shards(self) -> Path:
        """Where finished shards of an unfinished measurement lie."""
        return self.directory / "shards"

    @contextmanager
    def locked(self, waiting: Callable[[], object] | None = None) -> Iterator[None]:
        """Lock the entry; `waiting` is called once in a process that has to wait for another.

        Raises:
            StorageError: the entry cannot be written to, or a link in its place leads out of the cache.
        """
        for folder in (self.directory, self.shards):
            find_target(folder, folder=True)
        lock = FileLock(find_target(self.directory.with_suffix(".lock")))
        with _acquired(lock, waiting):
            self._claim()
            yield

    def load(self) -> Measurement | None:
        """Load the measurement; None where there is none yet. No lock is needed.

        Raises:
            StorageError: it is damaged, or that of another key; names the file.
        """
        if not holds_measurement(self.directory):
            return None
        self._check_key()
        return self._load(self.directory)

    def load_or_set_aside(self) -> Measurement | None:
        """Load the measurement; None where there is none, or a damaged one, which is set aside.

        The process must hold the lock.

        Raises:
            StorageError: a damaged one cannot be renamed, or a new one could not be written.
        """
        try:
            measurement = self.load()
        except StorageError as problem:
            self._set_aside(self.directory, problem)
            self._claim()
            return None
        if measurement is None:
            find_target(self.directory / FILE)
        return measurement

    def load_shard(self, number: int, count: int) -> Measurement | None:
        """Load a finished shard; None where there is none, or a damaged one, which is set aside.

        The process must hold the lock.

        Raises:
            StorageError: a damaged one cannot be renamed.
        """
        place = self._place(number, count)
        if not holds_measurement(place):
            return None
        try:
            return self._load(place)
        except StorageError as problem:
            self._set_aside(place, problem, self.directory / f"shard-{place.name}")
            return None

    def save_shard(self, number: int, count: int, shard: Measurement) -> None:
        """Keep a finished shard, whole or not at all; the process must hold the lock.

        Where it cannot be written a run that is killed loses it; saving the whole says why.
        """
        with suppress(StorageError):
            save_measurement(shard, self._place(number, count))

    def save(self, measurement: Measurement) -> None:
        """Save the measurement, whole or not at all, and remove its shards; the process must hold the lock.

        Raises:
            StorageError: it cannot be written, or its shards cannot be removed.
        """
        self._claim()
        save_measurement(measurement, self.directory)
        try:
            shutil.rmtree(self.shards)
        except FileNotFoundError:
            pass
        except OSError as problem:
            raise StorageError(f"cannot remove {self.shards}: {problem.strerror}; check the permissions.") from problem
        remove_unfinished(self.directory)

    def _place(self, number: int, count: int) -> Path:
        return self.shards / f"{number}-of-{count}"

    def _load(self, place: Path) -> Measurement:
        """Load a measurement or a shard; one of another key is an error."""
        measurement = load_measurement(place)
        for name, expected in self._origin.items():
            if (obtained := getattr(measurement.provenance, name)) != expected:
                raise StorageError(
                    f"{place / FILE} is another measurement: expected {name} {expected!r}, found {obtained!r}; delete "
                    f"{place}."
                )
        return measurement

    def _claim(self) -> None:
        """Write the key, or check the one that is there: no other key's measurement or shard is used."""
        claimed = (self.directory / KEY).exists() or self.shards.exists()
        if claimed or holds_measurement(self.directory):
            try:
                self._check_key()
            except StorageError as problem:
                self._set_aside(self.directory, problem)
            else:
                return
        write_atomically(self.directory / KEY, self._key)

    def _set_aside(self, path: Path, problem: StorageError, called: Path | None = None) -> None:
        """Rename a folder of the entry to a name that nothing reads; `called`: what it begins with."""
        endings = chain([""], (f"-{n}" for n in count(2)))
        called = called or path
        names = (called.with_name(f"{called.name}.damaged{ending}") for ending in endings)
        place = next(name for name in names if not name.exists())
        try:
            path.rename(place)
        except OSError as trouble:
            raise StorageError(f"cannot rename {path}: {trouble.strerror}; delete it: {problem}") from trouble
        reason, _, _ = str(problem).partition("; ")
        self.remarks.append(f"a damaged entry of the cache was set aside as {place.name} and measured again: {reason}")

    def _check_key(self) -> None:
        path = self.directory / KEY
        try:
            content = read_file(path)
        except OSError as problem:
            raise StorageError(f"cannot read {path}: {problem.strerror}; delete {self.directory}.") from problem
        if content != self._key:
            raise StorageError(
                f"{path} is not the key of this entry: it was changed or cut short, and what lies beside it cannot be "
                f"trusted; delete {self.directory}."
            )


def _canonical(key: Mapping[str, Any]) -> bytes:
    """Write the JSON text of a key, its fields sorted."""
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
