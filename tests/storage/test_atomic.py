"""A write that fails leaves what was there before, whole."""

import os
import subprocess
import time

import pytest

from pytest_quantcheck.errors import StorageError
from pytest_quantcheck.storage import (
    load_measurement,
    load_provenance,
    save_baseline,
    save_measurement,
    write_atomically,
    write_directory,
)
from pytest_quantcheck.storage.measurement_files import FILE
from tests.storage.disks import files_of_at_most, read_only


def names(directory):
    """Return what lies in a directory, hidden files too."""
    return sorted(path.name for path in directory.iterdir())


def test_file_is_written_with_its_folders(tmp_path):
    """The content arrives, over an older file as well, and nothing is left beside it."""
    path = tmp_path / "new" / "report.json"
    for content in (b"old", b"new"):
        write_atomically(path, content)
    assert path.read_bytes() == b"new"
    assert names(path.parent) == ["report.json"]


def test_reader_of_the_old_file_sees_no_mixture(tmp_path):
    """The old file is replaced, never written to: who reads it while it is replaced reads it to its end."""
    path = tmp_path / "report.json"
    write_atomically(path, b"old" * 100)
    with path.open("rb", buffering=0) as reader:
        start = reader.read(1)
        write_atomically(path, b"new")
        assert start + reader.read() == b"old" * 100


def test_file_may_be_read_by_others(tmp_path):
    """Permissions are those of any new file, not those of a temporary one."""
    (tmp_path / "plain").touch()
    write_atomically(tmp_path / "file", b"")
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "plain", tmp_path / "file")}
    assert len(modes) == 1


def test_parts_are_written_one_after_another(tmp_path):
    """Arrays and their header need not be copied into one piece of memory first."""
    write_atomically(tmp_path / "file", b"head", memoryview(b"arrays"))
    assert (tmp_path / "file").read_bytes() == b"headarrays"


def test_full_disk_leaves_the_old_file(tmp_path):
    """A write that fails half-way says what and where; the old file stays, no other appears."""
    path = tmp_path / "report.json"
    path.write_bytes(b"old")
    with files_of_at_most(1000), pytest.raises(StorageError, match=r"report\.json: File too large.*unchanged"):
        write_atomically(path, b"x" * 2000)
    assert (path.read_bytes(), names(tmp_path)) == (b"old", ["report.json"])


@pytest.mark.parametrize("parent", ["file", "file/deeper"])
def test_place_that_cannot_be_is_refused(tmp_path, parent):
    """A file where a folder must be is an error with the path in it."""
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=f"cannot write {tmp_path}/{parent}/x: "):
        write_atomically(tmp_path / parent / "x", b"")


def test_file_in_place_of_the_directory_is_kept(measurement, tmp_path):
    """A measurement's directory does not replace a file."""
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(StorageError, match=f"cannot write {tmp_path}/file/{FILE}: expected a directory"):
        save_measurement(measurement, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"mine"
    assert names(tmp_path) == ["file"]


def test_without_permission_the_old_measurement_stays(measurement, newer, same, tmp_path):
    """A folder that must not be written to is named."""
    place = tmp_path / "place"
    save_measurement(measurement, place)
    with read_only(place), pytest.raises(StorageError, match=f"{place}/{FILE}: Permission denied"):
        save_measurement(newer, place)
    assert same(measurement, load_measurement(place))
    assert names(place) == [FILE]


def test_full_disk_leaves_the_old_measurement(measurement, newer, same, tmp_path):
    """Whether the head or the arrays do not fit, the older measurement stays and nothing else is left."""
    save_measurement(measurement, tmp_path)
    for limit in (100, (tmp_path / FILE).stat().st_size - 1):
        with files_of_at_most(limit), pytest.raises(StorageError, match="File too large"):
            save_measurement(newer, tmp_path)
        assert same(measurement, load_measurement(tmp_path))
        assert names(tmp_path) == [FILE]


@pytest.mark.parametrize("save", [save_measurement, save_baseline])
def test_disk_that_is_full_leaves_the_old_measurement(measurement, newer, same, disk, save):
    """However much of the new one fits, the old one stays and what was written of the new is gone."""
    save_measurement(measurement, disk / "saved")
    size = sum(path.stat().st_size for path in (disk / "saved").iterdir())
    for left in (0, 4096, size // 2):
        ballast = disk / "ballast"
        ballast.write_bytes(b"x" * (free(disk) - left))
        with pytest.raises(StorageError, match=rf"{disk}/saved/{FILE}: No space left on device\. .*unchanged"):
            save(newer, disk / "saved")
        assert same(measurement, load_measurement(disk / "saved"))
        assert names(disk) == ["ballast", "saved"]
        assert names(disk / "saved") == [FILE]
        ballast.unlink()


@pytest.mark.parametrize("save", [save_measurement, save_baseline])
def test_disk_for_reading_only_is_named(measurement, newer, same, disk, save):
    """A file system that cannot be written to is told from one that is full."""
    save_measurement(measurement, disk / "saved")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(StorageError, match=f"cannot write {disk}/saved/{FILE}: Read-only file system"):
        save(newer, disk / "saved")
    assert same(measurement, load_measurement(disk / "saved"))
    assert names(disk) == ["saved"]


def free(place):
    """Bytes that fit into a file system."""
    found = os.statvfs(place)
    return found.f_bavail * found.f_bsize


@pytest.mark.parametrize("load", [load_measurement, load_provenance])
def test_measurement_that_must_not_be_read_is_named(measurement, tmp_path, load):
    """A folder that its reader has no right to is an error with the path in it."""
    save_measurement(measurement, tmp_path / "place" / "saved")
    with read_only(tmp_path / "place"), pytest.raises(StorageError, match=r"cannot read .*saved.*: Permission denied"):
        load(tmp_path / "place" / "saved")


def test_leavings_of_killed_writers_are_removed(tmp_path):
    """Files that are a day older than the one just written are removed; younger ones and others' are kept."""
    hours = {
        ".saved.0123abcd.tmp": 25,
        ".saved.1123abcd.tmp": 25,
        ".saved.3123abcd.tmp": 23,
        ".savedx.0123abcd.tmp": 25,
        ".saved.tmp": 25,
        "saved.0123abcd.tmp": 25,
    }
    for name, age in hours.items():
        (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / name, (time.time() - age * 3600,) * 2)
    write_atomically(tmp_path / "saved", b"whole")
    kept = [".saved.3123abcd.tmp", ".saved.tmp", ".savedx.0123abcd.tmp", "saved", "saved.0123abcd.tmp"]
    assert names(tmp_path) == kept


def test_leavings_that_cannot_be_removed_do_not_matter(tmp_path):
    """Another user's are left where they are: the new file is in its place."""
    stale = tmp_path / ".saved.0123abcd.tmp"
    stale.mkdir()  # a directory of that name is not a file that can be removed
    os.utime(stale, (0, 0))
    write_atomically(tmp_path / "saved", b"whole")
    assert (tmp_path / "saved").read_bytes() == b"whole"
    assert stale.is_dir()


def fill(directory, content=b"whole"):
    """Write a directory with one file, whose permissions are too narrow."""
    with write_directory(directory) as folder:
        (folder / "file").write_bytes(content)
        (folder / "file").chmod(0o600)


def test_directory_appears_when_it_is_whole(tmp_path):
    """Until then its name is free; its file may be read by those who may read any new one."""
    (tmp_path / "plain").touch()
    with write_directory(tmp_path / "new" / "saved") as folder:
        assert (folder.parent, names(tmp_path / "new")) == (tmp_path / "new", [folder.name])
    fill(tmp_path / "new" / "saved")  # over the empty one
    assert (names(tmp_path / "new"), names(tmp_path / "new" / "saved")) == (["saved"], ["file"])
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "plain", tmp_path / "new" / "saved" / "file")}
    assert len(modes) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_directory_that_fails_leaves_nothing(tmp_path, error):
    """The error is the writer's own."""

    def fail(folder):
        (folder / "file").write_bytes(b"half")
        raise error

    with pytest.raises(error), write_directory(tmp_path / "saved") as folder:
        fail(folder)
    assert names(tmp_path) == []


def test_directory_on_a_full_disk_leaves_nothing(tmp_path):
    """One sentence with the directory's name."""
    with files_of_at_most(3), pytest.raises(StorageError, match=rf"cannot write {tmp_path}/saved: File too large\. "):
        fill(tmp_path / "saved")
    assert names(tmp_path) == []


def test_directory_that_was_filled_meanwhile_is_kept(tmp_path):
    """Another writer was faster."""
    with pytest.raises(StorageError, match="saved: Directory not empty"), write_directory(tmp_path / "saved"):
        fill(tmp_path / "saved", b"theirs")
    assert names(tmp_path) == ["saved"]
    assert (tmp_path / "saved" / "file").read_bytes() == b"theirs"


def test_directories_of_killed_writers_are_removed(tmp_path):
    """Those that are a day older than the one just written; a file of that name is not one."""
    for name in (".saved.0123abcd.tmp", ".saved.1123abcd.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_bytes(b"half")
    (tmp_path / ".saved.2123abcd.tmp").write_bytes(b"half")
    for name in (".saved.0123abcd.tmp", ".saved.2123abcd.tmp"):
        os.utime(tmp_path / name, (time.time() - 25 * 3600,) * 2)
    fill(tmp_path / "saved")
    assert names(tmp_path) == [".saved.1123abcd.tmp", ".saved.2123abcd.tmp", "saved"]
