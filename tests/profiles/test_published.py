"""Where profiles are found, and that published ones stay as they are."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_quantcheck
from pytest_quantcheck.errors import ProfileError
from pytest_quantcheck.profiles import (
    changed_profiles,
    checksum,
    load_profile,
    published_checksums,
    thresholds_directory,
)

PROFILE = b"""
schema = 1
name = "strict"
version = 2
description = "For tests."
decision = { confidence = 0.9, inconclusive = "fail" }
metrics.redundancy_change = { max = 0.02, evidence = "measured" }
"""


@pytest.fixture
def thresholds(tmp_path):
    """A directory with one published profile."""
    data = PROFILE
    (tmp_path / "strict").mkdir()
    (tmp_path / "strict" / "2.toml").write_bytes(data)
    (tmp_path / "CHECKSUMS").write_text(f"{checksum(data)}  strict/2.toml\n")
    return tmp_path


def test_published_profile_is_found_by_name_and_version(thresholds):
    """`NAME@VERSION` is a published profile, a path any file."""
    assert load_profile("strict@2", directory=thresholds).label == "strict@2"
    assert load_profile(str(thresholds / "strict" / "2.toml")).label == "strict@2"


@pytest.mark.parametrize("spec", ["strict", "strict@1", "strict@02", "../strict@2", "lax@2", "strict@"])
def test_unknown_profile_lists_the_published(thresholds, spec):
    """A name without a version, or one that was not published, is answered with those that were."""
    with pytest.raises(ProfileError, match=r"expected NAME@VERSION or the path of a \.toml file; there are strict@2"):
        load_profile(spec, directory=thresholds)


def test_missing_file_is_refused(tmp_path):
    """A path without a file is named."""
    with pytest.raises(ProfileError, match=r"cannot read .*none\.toml: No such file"):
        load_profile(str(tmp_path / "none.toml"))


def test_changed_profile_is_refused(thresholds):
    """A published version whose limits were edited does not judge."""
    path = thresholds / "strict" / "2.toml"
    path.write_bytes(path.read_bytes().replace(b"0.02", b"0.03"))
    assert changed_profiles(thresholds) == ["strict/2.toml"]
    with pytest.raises(ProfileError, match="is not what was published"):
        load_profile("strict@2", directory=thresholds)


def test_line_ends_of_a_checkout_change_nothing(thresholds):
    """A checkout with CRLF line ends is the same profile."""
    for path in (thresholds / "strict" / "2.toml", thresholds / "CHECKSUMS"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert changed_profiles(thresholds) == []
    assert load_profile("strict@2", directory=thresholds).label == "strict@2"


def test_added_and_removed_profiles_are_seen(thresholds):
    """A profile without a checksum, and a checksum without a profile, are both seen."""
    (thresholds / "strict" / "2.toml").rename(thresholds / "strict" / "3.toml")
    assert changed_profiles(thresholds) == ["strict/2.toml", "strict/3.toml"]
    with pytest.raises(ProfileError, match="expected checksum in CHECKSUMS"):
        load_profile("strict@3", directory=thresholds)


def test_profile_must_be_what_its_path_says(thresholds):
    """A published file in another's place is refused, with the key that does not agree."""
    data = (thresholds / "strict" / "2.toml").read_bytes()
    (thresholds / "strict" / "1.toml").write_bytes(data)
    (thresholds / "CHECKSUMS").write_text(f"{checksum(data)}  strict/1.toml\n")
    with pytest.raises(ProfileError, match="version: expected 1 as in the path, got 2"):
        load_profile("strict@1", directory=thresholds)


@pytest.mark.parametrize("line", ["abc  strict/2.toml", "0" * 64 + " strict/2.toml", ""])
def test_malformed_checksum_list_is_refused(thresholds, line):
    """A checksum list that cannot be read protects nothing, so it is an error with its line."""
    with (thresholds / "CHECKSUMS").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ProfileError, match="CHECKSUMS, line 2: expected a checksum"):
        published_checksums(thresholds)


def test_the_package_s_own_profiles_are_as_published():
    """Every profile that is shipped has its checksum, and the default one can be loaded."""
    assert changed_profiles() == []
    assert load_profile("default@1").label == "default@1"


def test_installed_package_finds_its_profiles(tmp_path):
    """Laid out as the wheel lays it out, with the thresholds inside, the package finds them there."""
    package = tmp_path / "pytest_quantcheck"
    shutil.copytree(
        Path(pytest_quantcheck.__file__).parent, package, ignore=shutil.ignore_patterns("builtin", "__pycache__")
    )
    shutil.copytree(thresholds_directory(), package / "thresholds")
    code = "from pytest_quantcheck.profiles import load_profile; print(load_profile('default@1').path)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(package / "thresholds" / "default" / "1.toml")
