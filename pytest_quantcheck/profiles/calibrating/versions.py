"""Where a new version of a profile is written; an existing version is never overwritten."""

from __future__ import annotations

import math
import re
from pathlib import Path

from pytest_quantcheck.errors import SettingsError
from pytest_quantcheck.options.labels import read_label
from pytest_quantcheck.profiles import read_profile, thresholds_directory
from pytest_quantcheck.storage import check_writable, write_atomically

_FLAG = "--quantcheck-calibrate"


def check_calibration(name: str, *, directory: Path, rate: float, n_prompts: int) -> tuple[str, int]:
    """Refuse a calibration that cannot succeed, before anything is measured.

    Args:
        name: `NAME`, which gets the next version, or `NAME@VERSION`.
        directory: where profiles are kept; it need not exist.
        rate: the false-alarm rate that was requested.
        n_prompts: the number of prompts in the smallest prompt set.

    Returns:
        The name and the version that will be written.

    Raises:
        SettingsError: a malformed name, a version that exists, or too few prompts.
        StorageError: a directory that cannot be written.
    """
    name, version = _read_name(name)
    version = version or next_version(directory, name)
    _refuse_existing(directory, name, version)
    check_writable(f"{_FLAG}-directory", directory / name)
    _check_prompts(rate, n_prompts)
    return name, version


def next_version(directory: Path, name: str) -> int:
    """Add one to the largest version, built-in profiles included."""
    return max((0, *_versions(directory, name), *_versions(thresholds_directory(), name))) + 1


def save_profile(text: str, *, directory: Path, name: str, version: int) -> Path:
    """Write a new version to `<directory>/<name>/<version>.toml`; return the path.

    The file is written atomically.

    Raises:
        SettingsError: the version exists by now.
        StorageError: it cannot be written.
    """
    path = _profile_path(directory, name, version)
    data = text.encode()
    read_profile(data, str(path))  # check that it can be read back before it is written
    _refuse_existing(directory, name, version)
    write_atomically(path, data)
    return path


def _read_name(text: str) -> tuple[str, int | None]:
    try:
        return read_label(text)
    except ValueError as problem:
        raise SettingsError(f"{_FLAG}: {problem}") from None


def _profile_path(directory: Path, name: str, version: int) -> Path:
    return directory / name / f"{version}.toml"


def _versions(directory: Path, name: str) -> list[int]:
    matches = (re.fullmatch(r"[1-9]\d*", path.stem, re.ASCII) for path in (directory / name).glob("*.toml"))
    return [int(match[0]) for match in matches if match]


def _refuse_existing(directory: Path, name: str, version: int) -> None:
    for place in (directory, thresholds_directory()):
        path = _profile_path(place, name, version)
        if path.exists() or path.is_symlink():
            raise SettingsError(
                f"{_FLAG}={name}@{version}: {path} exists, and a version never changes; leave the version out "
                f"(the next is {next_version(directory, name)}), or choose another name"
            )


def _check_prompts(rate: float, n_prompts: int) -> None:
    needed = math.ceil(round(1 / rate, 6))
    if n_prompts < needed:
        raise SettingsError(
            f"{_FLAG}-rate={rate:g}: expected at least {needed:,} prompts, because the rate is one in {needed:,}, got "
            f"{n_prompts:,}; measure more prompts or choose a larger rate"
        )
