"""A file is written in the directory that was named; what a link leads to elsewhere stays as it is."""

import os
import subprocess
from pathlib import Path

import pytest

from pytest_quantcheck.errors import StorageError
from pytest_quantcheck.storage import Cache, check_new, check_writable, find_target, write_atomically
from pytest_quantcheck.storage.measurement_files import FILE

KEY = {"model": "builtin"}
OBSTACLES = {
    "link": "expected a regular file or nothing there, found a link to .*/elsewhere/file, outside .*/named; ",
    "dangling": "expected a regular file or nothing there, found a link to .*/elsewhere/new, outside .*/named; ",
    "up": "expected a regular file or nothing there, found a link to .*/file, outside .*/named; ",
    "loop": "expected a regular file or nothing there, found a link that leads to itself; ",
    "pipe": "expected a regular file or nothing there, found a named pipe; ",
    "link to a pipe": "expected a regular file or nothing there, found a named pipe; ",
    "directory": "expected a regular file or nothing there, found a directory; ",
}


@pytest.fixture
def elsewhere(tmp_path):
    """A directory with a file that nobody named."""
    place = tmp_path / "elsewhere"
    place.mkdir()
    (place / "file").write_bytes(b"mine")
    return place


@pytest.fixture
def put(elsewhere, tmp_path):
    """Puts an obstacle of `OBSTACLES` at a path."""

    def make(obstacle, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        match obstacle:
            case "link":
                path.symlink_to(elsewhere / "file")
            case "dangling":
                path.symlink_to(elsewhere / "new")
            case "up":
                (tmp_path / "file").touch()
                path.symlink_to("../file")
            case "loop":
                path.symlink_to(path.name)
            case "pipe":
                os.mkfifo(path)
            case "link to a pipe":
                os.mkfifo(path.with_name("other"))
                path.symlink_to("other")
            case "directory":
                path.mkdir()

    return make


@pytest.fixture
def named(tmp_path):
    """The directory that a user names; it does not exist yet."""
    return tmp_path / "named"


def everything(directory):
    """Return kind and content of all that is below a directory, links not followed."""
    found = {path: (path.lstat().st_mode, path.lstat().st_mtime_ns) for path in directory.rglob("*")}
    return found, {path: path.read_bytes() for path in found if path.is_file()}


@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_what_is_no_file_of_the_directory_is_left(put, named, tmp_path, obstacle):
    """The sentence says what was expected, what is there and what to do; nothing is changed, here or elsewhere."""
    put(obstacle, named / "report.json")
    before = everything(tmp_path)
    said = rf"^cannot write .*/report\.json: {OBSTACLES[obstacle]}it was left as it is: remove it or choose another"
    with pytest.raises(StorageError, match=said):
        write_atomically(named / "report.json", b"new")
    assert everything(tmp_path) == before


def test_link_to_a_directory_is_that_directory(elsewhere, named):
    """It is the place that was named: its files are written and replaced, and the link stays."""
    named.symlink_to(elsewhere)
    write_atomically(named / "file", b"new")
    write_atomically(named / "deeper" / "file", b"newer")
    assert (elsewhere / "file").read_bytes() == b"new"
    assert (elsewhere / "deeper" / "file").read_bytes() == b"newer"
    assert named.is_symlink()


@pytest.mark.parametrize("exists", [True, False])
def test_link_within_the_directory_is_followed(named, exists):
    """Such as to the file of this run; the link stays."""
    named.mkdir()
    (named / "latest").symlink_to("today")
    if exists:
        (named / "today").write_bytes(b"old")
    write_atomically(named / "latest", b"new")
    assert (named / "today").read_bytes() == b"new"
    assert (named / "latest").is_symlink()


def test_directory_may_have_a_longer_name_of_the_same_beginning(tmp_path):
    """`named-too` is outside `named`."""
    (tmp_path / "named").mkdir()
    (tmp_path / "named-too").mkdir()
    (tmp_path / "named" / "file").symlink_to(tmp_path / "named-too" / "file")
    with pytest.raises(StorageError, match="outside"):
        find_target(tmp_path / "named" / "file")


@pytest.mark.parametrize("deeper", ["", "deeper/deepest"])
def test_directory_that_leads_to_itself_is_refused(put, named, deeper):
    """Before anything is measured, and by the writer."""
    put("loop", named)
    with pytest.raises(StorageError, match=r"^--out=.*/named is not a directory that can be written; choose another"):
        check_writable("--out", named / deeper)
    with pytest.raises(StorageError, match=r"expected a directory at .*/named, found a link that leads to itself; "):
        write_atomically(named / deeper / "file", b"")


def test_directory_is_checked_with_its_files(put, named):
    """A file that could not be replaced after hours is found before."""
    put("link", named / "builtin" / "file")
    check_writable("--out", named, "other/file")
    with pytest.raises(StorageError, match=rf"^cannot write {named}/builtin/file: .*found a link to"):
        check_writable("--out", named, "other/file", "builtin/file")


@pytest.mark.parametrize("obstacle", [name for name in OBSTACLES if name != "directory"])
def test_lock_of_the_cache_is_a_file(put, named, tmp_path, obstacle):
    """An entry whose lock leads elsewhere, or to a pipe, is not entered."""
    entry = Cache(named).entry(KEY)
    put(obstacle, entry.directory.with_suffix(".lock"))
    before = everything(tmp_path)
    with pytest.raises(StorageError, match=rf"cannot write .*\.lock: {OBSTACLES[obstacle]}"), entry.locked():
        pass
    assert everything(tmp_path) == before


@pytest.mark.parametrize("ours", ["", "shards"])
def test_folders_of_the_cache_are_in_it(elsewhere, named, ours):
    """Users name the cache, and never the folders in it: a link there is no place that was named."""
    place = Cache(named).entry(KEY).directory / ours
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(elsewhere)
    said = f"cannot write {place}: expected a directory or nothing there, found a link to .*/elsewhere, outside "
    with pytest.raises(StorageError, match=said), Cache(named).entry(KEY).locked():
        pass
    assert [path.name for path in elsewhere.iterdir()] == ["file"]


@pytest.mark.parametrize("obstacle", ["dangling", "loop"])
def test_measurement_that_could_not_be_kept_is_not_made(put, named, obstacle):
    """Said where a measurement is found missing, not once it is made."""
    entry = Cache(named).entry(KEY)
    with entry.locked():
        put(obstacle, entry.directory / FILE)
        with pytest.raises(StorageError, match=f"cannot write .*/{FILE}: .*found a link"):
            entry.load_or_set_aside()


@pytest.mark.parametrize("name", ["new/deeper", "empty", "link"])
def test_new_or_empty_directory_may_be_written(tmp_path, name):
    """A link is the directory that it leads to; nothing is made yet."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    before = everything(tmp_path)
    check_new("--out", tmp_path / name)
    assert everything(tmp_path) == before


def test_directory_that_holds_something_is_refused(elsewhere):
    """What is found in it is named."""
    with pytest.raises(
        StorageError, match=f"--out={elsewhere}: expected a new or an empty directory, found file in it"
    ):
        check_new("--out", elsewhere)


def test_directory_that_cannot_be_replaced_is_refused(tmp_path, monkeypatch):
    """The shell that stands in it would stand nowhere."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageError, match=r"--out=\.: expected a directory that can be replaced, found .*name a new"):
        check_new("--out", Path())


def test_directory_in_one_for_reading_only_is_refused(disk):
    """Also where it exists itself: a whole one takes its place. A mount point has no place that could be taken."""
    with pytest.raises(StorageError, match=f"--out={disk}: expected a directory that can be replaced"):
        check_new("--out", disk)
    (disk / "empty").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    for name in ("new", "empty"):
        with pytest.raises(StorageError, match=f"{name}: {disk} is not a directory that can be written"):
            check_new("--out", disk / name)
