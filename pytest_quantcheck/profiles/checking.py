"""Whether profiles are what they should be: readable, and, if they are published, unchanged."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from pytest_quantcheck.errors import ProfileError
from pytest_quantcheck.plurals import counted
from pytest_quantcheck.profiles.profile import Profile
from pytest_quantcheck.profiles.published import (
    CHECKSUMS,
    changed_profiles,
    load_profile,
    published_checksums,
    thresholds_directory,
)


def check_files(specs: Iterable[str], *, directory: Path | None = None) -> Iterator[str | ProfileError]:
    """Yield a line for each profile that is good, and the error of each that is not."""
    for spec in specs:
        try:
            yield f"{spec}: {_praise(load_profile(spec, directory=directory))}"
        except ProfileError as problem:
            yield problem


def check_published(directory: Path | None = None) -> Iterator[str | ProfileError]:
    """Yield the same for every profile of a directory of published ones, those that are gone included."""
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
            yield ProfileError(f"{directory / name} is gone, and {CHECKSUMS} lists it: a published version stays")


def _label(name: str) -> str:
    """The label of a published file, such as `default@1` of `default/1.toml`."""
    return name.removesuffix(".toml").replace("/", "@")


def _praise(profile: Profile) -> str:
    return f"valid, {counted(len(profile.rules), 'limit')} on {', '.join(profile.metrics)}"
