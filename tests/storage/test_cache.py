"""A cache keeps one measurement for each key, whoever asks for it and whatever happened to who made it."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from pytest_quantcheck.errors import StorageError
from pytest_quantcheck.storage import Cache, save_measurement
from pytest_quantcheck.storage.measurement_files import FILE
from tests.storage.disks import files_of_at_most, read_only

KEY = {"model": "builtin", "content": "sha256:1234", "bits": "nf4", "plan": {"layers": [0, 3], "revision": None}}

RACE = """
import os, signal, sys, time
from pathlib import Path
from pytest_quantcheck.storage import Cache, load_measurement

cache, source, dies = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "dies"
entry = Cache(cache).entry({"model": "shared"})
print("ready", flush=True)
sys.stdin.readline()
with entry.locked(lambda: print("waits", flush=True)):
    if entry.load() is None:
        print("measures", flush=True)
        entry.save_shard(1, 2, load_measurement(source))
        sys.stdin.readline()
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
        entry.save(load_measurement(source))
print("done", flush=True)
"""
"""Waits for a line, asks for an entry, and if it has to be measured waits for another line, and dies or saves it."""


@pytest.fixture
def cache(tmp_path):
    """An empty cache."""
    return Cache(tmp_path / "cache")


@pytest.fixture
def entry(cache, measurement):
    """An entry with a measurement."""
    made = cache.entry(KEY)
    with made.locked():
        made.save(measurement)
    return made


def test_a_measurement_is_found_again_by_its_key(cache, entry, measurement, same):
    """In another object, without a lock, and whatever the order of the key's fields: the same bits."""
    again = cache.entry(json.loads(json.dumps(KEY, sort_keys=True)))
    assert again.directory == entry.directory
    assert same(measurement, again.load())


def test_nothing_is_there_before_it_is_saved(cache, measurement, same):
    """Neither loading nor locking makes a measurement; a shard is none, and one of how many it is, it is for good."""
    entry = cache.entry(KEY)
    assert entry.load() is None
    with entry.locked():
        entry.save_shard(1, 2, measurement)
        assert entry.load() is None
        assert same(measurement, entry.load_shard(1, 2))
        assert entry.load_shard(2, 2) is None
        assert entry.load_shard(1, 3) is None


@pytest.mark.parametrize("damage", ["truncated", "another's"])
def test_damaged_shard_is_set_aside(cache, measurement, damage):
    """It is measured again, and the line is kept; the next run finds the new one."""
    entry = cache.entry(KEY, {"bits": measurement.provenance.bits if damage == "truncated" else "other"})
    with entry.locked():
        entry.save_shard(1, 2, measurement)
        if damage == "truncated":
            file = entry.directory / "shards" / "1-of-2" / FILE
            file.write_bytes(file.read_bytes()[:-1])
        assert entry.load_shard(1, 2) is None
        assert not (entry.directory / "shards" / "1-of-2").exists()
    assert "set aside as shard-1-of-2.damaged and measured again" in entry.remarks[0]


def test_shard_that_cannot_be_kept_is_lost_alone(cache, measurement):
    """The run goes on; what the whole meets is told."""
    entry = cache.entry(KEY)
    with entry.locked():
        (entry.directory / "shards").write_text("in the way")
        entry.save_shard(1, 2, measurement)
        assert entry.load_shard(1, 2) is None


def test_saving_removes_the_shards(cache, measurement):
    """What was kept of the work, and what killed processes have left half written, is not needed once it is done."""
    entry = cache.entry(KEY)
    with entry.locked():
        (entry.directory / f".{FILE}.0123abcd.tmp").touch()
        (entry.directory / ".key.json.0123abcd.tmp").touch()
        entry.save_shard(1, 2, measurement)
        entry.save(measurement)
    assert sorted(path.name for path in entry.directory.iterdir()) == ["key.json", FILE]


@pytest.mark.parametrize(
    "other",
    [KEY | {"content": "sha256:1235"}, KEY | {"bits": "int8"}, KEY | {"more": None}, KEY | {"plan": {"layers": [0]}}],
    ids=["weights", "bits", "more", "plan"],
)
def test_other_keys_never_share_an_entry(cache, entry, other):
    """A model of the same name with other weights, or any other difference: an entry of its own, still empty."""
    assert cache.entry(other).directory != entry.directory
    assert cache.entry(other).load() is None


@pytest.mark.parametrize("key", [{"x": float("nan")}, {"x": {1, 2}}, {"x": b""}], ids=["nan", "set", "bytes"])
def test_keys_that_json_cannot_hold_are_refused(cache, key):
    """A key is text all through, and NaN is equal to nothing."""
    with pytest.raises(ValueError, match="JSON"):
        cache.entry(key)


@pytest.mark.parametrize("content", [b"", b"{", json.dumps(KEY | {"content": "sha256:0"}).encode()])
def test_a_tampered_key_is_refused(entry, measurement, content, same):
    """A measurement beside another key is neither loaded nor replaced: it is set aside, and the file is named."""
    (entry.directory / "key.json").write_bytes(content)
    with pytest.raises(StorageError, match=r"key\.json is not the key of this entry.*delete"):
        entry.load()
    with entry.locked():
        assert entry.load_or_set_aside() is None
        entry.save(measurement)
    (remark,) = entry.remarks
    assert "key.json is not the key of this entry" in remark
    assert same(measurement, entry.load())
    aside = entry.directory.with_name(f"{entry.directory.name}.damaged")
    assert (aside / "key.json").read_bytes() == content
    assert (aside / FILE).exists()


@pytest.mark.parametrize("left", ["measurement", "shards"])
def test_an_entry_without_its_key_is_set_aside(entry, left):
    """What lies there may be anyone's: neither a measurement nor a shard is used without its key."""
    if left == "shards":
        (entry.directory / FILE).unlink()
        (entry.directory / "shards").mkdir()
    (entry.directory / "key.json").unlink()
    with entry.locked():
        assert sorted(path.name for path in entry.directory.iterdir()) == ["key.json"]
    assert "cannot read" in entry.remarks[0]


def test_a_pipe_in_the_place_of_the_key_is_set_aside(entry):
    """It is not waited for; the entry is measured again."""
    (entry.directory / "key.json").unlink()
    os.mkfifo(entry.directory / "key.json")
    with entry.locked():
        assert entry.load_or_set_aside() is None
    assert "key.json: expected a regular file, found a named pipe" in entry.remarks[0]


def test_an_entry_of_another_key_in_this_ones_place_is_refused(cache, entry):
    """A folder renamed or copied is found out by the key in it."""
    other = cache.entry(KEY | {"bits": "int8"})
    entry.directory.rename(other.directory)
    with pytest.raises(StorageError, match=r"key\.json is not the key of this entry"):
        other.load()


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_measurement_is_set_aside(entry, damage):
    """Not measured anew in silence: the file is named; `load` refuses it."""
    path = entry.directory / FILE
    data = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(data)
    with pytest.raises(StorageError, match=rf"{FILE} .*again"):
        entry.load()
    with entry.locked():
        assert entry.load_or_set_aside() is None
    assert FILE in entry.remarks[0]


def test_a_damaged_entry_that_cannot_be_renamed_is_refused(entry, monkeypatch):
    """Its folder may be another user's: the sentence names it."""

    def refuse(_path, _place):
        raise PermissionError(13, "Permission denied")

    (entry.directory / "key.json").unlink()
    monkeypatch.setattr("pathlib.Path.rename", refuse)
    with pytest.raises(StorageError, match=r"cannot rename .*Permission denied; delete it"), entry.locked():
        pass


def test_a_cache_that_cannot_be_written_to_is_found_out_before(cache, tmp_path):
    """No permission: said by the check, and by the lock, with the path; the check leaves nothing behind."""
    cache.check_writable()
    assert list(cache.directory.iterdir()) == []
    with read_only(cache.directory):
        with pytest.raises(StorageError, match=r"cannot write .*cache.*: Permission denied"):
            cache.check_writable()
        with pytest.raises(StorageError, match=r"cannot lock .*\.lock: Permission denied"), cache.entry(KEY).locked():
            pass
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot write"):
        Cache(tmp_path / "file").check_writable()
    with (
        pytest.raises(StorageError, match="expected a directory at"),
        Cache(tmp_path / "file").entry(KEY).locked(),
    ):
        pass


def test_a_full_disk_is_found_out_before(cache):
    """Where not even a megabyte fits, nothing is begun."""
    with files_of_at_most(1000), pytest.raises(StorageError, match=r"cannot write .*cache.*: File too large"):
        cache.check_writable()
    assert list(cache.directory.iterdir()) == []


def test_an_error_inside_lets_go_of_the_lock(cache):
    """Who fails to measure does not keep others from trying."""
    with pytest.raises(KeyError), cache.entry(KEY).locked():
        raise KeyError
    with cache.entry(KEY).locked(lambda: pytest.fail("waits")):
        pass


def test_who_waits_is_told_once(cache):
    """`waiting` is called when there is something to wait for, before it is waited for."""
    told, release = threading.Event(), threading.Event()

    def hold(locked):
        with cache.entry(KEY).locked():
            locked.set()
            release.wait(60)

    locked = threading.Event()
    holder = threading.Thread(target=hold, args=(locked,))
    holder.start()
    assert locked.wait(60)

    def waiting():
        assert not told.is_set()
        told.set()
        release.set()

    with cache.entry(KEY).locked(waiting):
        assert told.is_set()
    holder.join()


class Racer:
    """A process that asks for the shared entry."""

    def __init__(self, cache, source, *, dies=False):
        command = [sys.executable, "-c", RACE, str(cache.directory), str(source), "dies" if dies else "lives"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def says(self):
        return self.process.stdout.readline().strip()

    def go(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self):
        rest = self.process.communicate(timeout=60)[0].split()
        return rest, self.process.returncode


def test_one_of_several_processes_measures_and_the_others_wait(cache, measurement, same, tmp_path):
    """The first is killed while it measures, the second does it, the third finds it done: none is blocked."""
    save_measurement(measurement, tmp_path / "source")
    racers = [Racer(cache, tmp_path / "source", dies=dies) for dies in (True, False, False)]
    assert [racer.says() for racer in racers] == ["ready"] * 3
    first, *others = racers
    first.go()
    assert first.says() == "measures"
    for racer in others:
        racer.go()
    assert [racer.says() for racer in others] == ["waits"] * 2
    first.go()
    assert first.end() == ([], -signal.SIGKILL)
    for racer in others:
        racer.go()
    said = sorted(racer.end() for racer in others)
    assert said == [(["done"], 0), (["measures", "done"], 0)]
    found = cache.entry({"model": "shared"})
    assert same(measurement, found.load())
    assert not found.shards.exists()
