"""Checks of profiles: readable, and unchanged if published."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from pytest_quantcheck.errors import ProfileError
from pytest_quantcheck.profiles.profile import Profile
from pytest_quantcheck.profiles.published import (
    CHECKSUMS,
    changed_profiles,
    load_profile,
    published_checksums,
    thresholds_directory,
)
from pytest_quantcheck.text import counted


def check_files(specs: Iterable[str], *, directory: Path | None = None) -> Iterator[str | ProfileError]:
    """Yield a line for each valid profile, an error for each other."""
    for spec in specs:
        try:
            yield f"{spec}: {_summary(load_profile(spec, directory=directory))}"
        except ProfileError as problem:
            yield problem


def check_published(directory: Path | None = None) -> Iterator[str | ProfileError]:
    """Yield the same for all published profiles, deleted ones included."""
    directory = directory or thresholds_directory()
    try:
        names = sorted({*published_checksums(directory), *changed_profiles(directory)})
    except ProfileError as problem:
        yield problem
        return
    for name in names:
        if (directory / name).is_file():
            yield from check_files([_label(name)], directory=directory)
        else:
            yield ProfileError(
                f"{directory / name} does not exist, and {CHECKSUMS} lists it: a published version must stay"
            )


def _label(name: str) -> str:
    """Label a published file, such as `default@1` for `default/1.toml`."""
    return name.removesuffix(".toml").replace("/", "@")


def _summary(profile: Profile) -> str:
    return f"valid, {counted(len(profile.rules), 'limit')} on {', '.join(profile.metrics)}"
