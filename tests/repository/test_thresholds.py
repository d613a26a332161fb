"""A published threshold profile never changes: a change is a new version."""

import hashlib
import tomllib
from pathlib import Path

import pytest

THRESHOLDS = Path(__file__).parents[2] / "thresholds"
PROFILES = sorted(path.relative_to(THRESHOLDS).as_posix() for path in THRESHOLDS.glob("*/*.toml"))


def published() -> dict[str, str]:
    """Read the checksum list: `sha256  name/version.toml` a line."""
    lines = (THRESHOLDS / "CHECKSUMS").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("  ") for line in lines]
    return {name: digest for digest, name in pairs}


def test_default_profile_is_there():
    """Version 1 of the default profile is published."""
    assert "default/1.toml" in PROFILES


def test_checksums_list_every_profile_and_no_other():
    """The checksum list and the folder hold the same profiles, each listed once and in order."""
    assert list(published()) == PROFILES
    assert len((THRESHOLDS / "CHECKSUMS").read_text(encoding="utf-8").splitlines()) == len(PROFILES)


@pytest.mark.parametrize("name", PROFILES)
def test_profile_is_as_published(name):
    """Every profile has the bytes it was published with."""
    obtained = hashlib.sha256((THRESHOLDS / name).read_bytes().replace(b"\r\n", b"\n")).hexdigest()
    assert obtained == published().get(name), (
        f"thresholds/{name} is not what CHECKSUMS has. A published version never changes: write the change into a "
        f"new version. If this version is new, add its line:\n{obtained}  {name}"
    )


@pytest.mark.parametrize("name", PROFILES)
def test_profile_says_its_own_name_and_version(name):
    """A profile's name and version are those of its path, so that `default@1` means one file."""
    profile = tomllib.loads((THRESHOLDS / name).read_text(encoding="utf-8"))
    assert f"{profile['name']}/{profile['version']}.toml" == name
