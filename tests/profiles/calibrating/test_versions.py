"""Where a new version goes, and what is refused before anything is measured."""

import pytest

from pytest_quantcheck.errors import SettingsError, StorageError
from pytest_quantcheck.profiles import load_profile, thresholds_directory
from pytest_quantcheck.profiles.calibrating import check_calibration, next_version, save_profile

TEXT = (thresholds_directory() / "default" / "1.toml").read_text(encoding="utf-8")


def check(name, directory, *, rate=0.01, n_prompts=100):
    """What `check_calibration` makes of a name."""
    return check_calibration(name, directory=directory, rate=rate, n_prompts=n_prompts)


@pytest.fixture
def kept(tmp_path):
    """A directory with versions 1 and 3 of one profile, and a file that is no version."""
    (tmp_path / "mine").mkdir()
    for name in ("1.toml", "3.toml", "draft.toml"):
        (tmp_path / "mine" / name).touch()
    return tmp_path


def test_a_name_takes_the_next_version(kept):
    """One more than the largest there is: a number that was used is not used again."""
    assert next_version(kept, "mine") == 4
    assert check("mine", kept) == ("mine", 4)
    assert check("other", kept / "not" / "there") == ("other", 1)


def test_a_version_that_is_free_is_taken_as_given(kept):
    """A gap may be filled by name."""
    assert check("mine@2", kept) == ("mine", 2)


def test_no_version_shares_its_label_with_one_that_came_with_the_package(tmp_path):
    """Two profiles called default@1 would be told apart by nobody."""
    assert next_version(tmp_path, "default") > 1
    with pytest.raises(SettingsError, match=r"default@1: .*1\.toml exists, and a version never changes"):
        check("default@1", tmp_path)


def test_an_existing_version_is_refused(kept):
    """The sentence offers the next one."""
    with pytest.raises(SettingsError, match=r"^--quantcheck-calibrate=mine@3: .*3\.toml exists, .*the next is 4"):
        check("mine@3", kept)


@pytest.mark.parametrize(
    "name", ["../mine", "a/b", "a\\b", "..", "", "mine@", "mine@0", "mine@x", "é", "a b", "a" * 65]
)
def test_a_name_that_is_no_folder_is_refused(tmp_path, name):
    """Nothing is written outside the directory, nor under a name that some system lacks."""
    with pytest.raises(SettingsError, match=r"^--quantcheck-calibrate: expected NAME or NAME@VERSION"):
        check(name, tmp_path)


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_place_that_cannot_be_written_is_refused(tmp_path, place):
    """The nearest thing there is, is named."""
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"^--quantcheck-calibrate-directory=.*file is not a directory"):
        check("mine", tmp_path / place)


def test_a_folder_of_the_name_that_is_a_file_is_refused(tmp_path):
    """The directory can be written, the profile's folder in it cannot be made."""
    (tmp_path / "mine").touch()
    with pytest.raises(StorageError, match="mine is not a directory that can be written"):
        check("mine", tmp_path)


@pytest.mark.parametrize(("rate", "needed"), [(0.01, 100), (0.5, 2), (1 / 49, 49), (0.07, 15)])
def test_a_rate_needs_prompts(tmp_path, rate, needed):
    """One in a hundred cannot be seen among fewer than a hundred."""
    assert check("mine", tmp_path, rate=rate, n_prompts=needed) == ("mine", 1)
    with pytest.raises(SettingsError, match=rf"expected at least {needed} prompts, .* got {needed - 1}; measure more"):
        check("mine", tmp_path, rate=rate, n_prompts=needed - 1)


def test_checking_writes_nothing(tmp_path):
    """A run that is cut short leaves no empty folder."""
    check("mine", tmp_path / "thresholds")
    assert list(tmp_path.iterdir()) == []


def test_a_new_version_is_written_where_it_is_looked_for(tmp_path):
    """The file holds the text, alone in its folder, and can be used by its path."""
    path = save_profile(TEXT, directory=tmp_path / "thresholds", name="mine", version=2)
    assert path == tmp_path / "thresholds" / "mine" / "2.toml"
    assert [file.name for file in path.parent.iterdir()] == ["2.toml"]
    assert load_profile(str(path)).description == load_profile("default@1").description


def test_a_version_that_came_meanwhile_is_not_overwritten(kept):
    """Two runs that were promised the same version: the second is refused, the first is kept."""
    with pytest.raises(SettingsError, match=r"mine@3: .* exists"):
        save_profile(TEXT, directory=kept, name="mine", version=3)
    assert (kept / "mine" / "3.toml").read_bytes() == b""
