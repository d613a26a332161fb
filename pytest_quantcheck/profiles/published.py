"""Published profiles: their directory and their checksums."""

import hashlib
import re
from pathlib import Path
from typing import NoReturn

from pytest_quantcheck.errors import ProfileError
from pytest_quantcheck.options.labels import read_label
from pytest_quantcheck.profiles.profile import Profile
from pytest_quantcheck.profiles.reading import read_profile
from pytest_quantcheck.user_files import PROFILE_BYTES, read_file

_PACKAGED = Path(__file__).parent.parent / "thresholds"  # in the wheel
_CHECKOUT = Path(__file__).parent.parent.parent / "thresholds"  # beside the package
CHECKSUMS = "CHECKSUMS"


def thresholds_directory() -> Path:
    """Find the directory of published profiles, in a wheel or checkout."""
    return _PACKAGED if _PACKAGED.is_dir() else _CHECKOUT


def load_profile(spec: str, *, directory: Path | None = None) -> Profile:
    """Read a profile: `NAME@VERSION` for a published one, or the path of a `.toml` file.

    A published profile is read from `directory`, by default the package's own, and must have its published checksum.

    Raises:
        ProfileError: the profile does not exist, cannot be read, is not valid or was changed.
    """
    if spec.endswith(".toml"):
        return read_profile(_read_bytes(Path(spec).expanduser()), spec)
    directory = directory or thresholds_directory()
    name, version = _split_label(spec, directory)
    path = directory / name / f"{version}.toml"
    data = _read_bytes(path) if path.is_file() else _refuse_unknown(spec, directory)
    _check_checksum(data, f"{name}/{version}.toml", directory)
    return _check_place(read_profile(data, str(path)), name, version)


def checksum(data: bytes) -> str:
    r"""Hash a profile by SHA-256; `\r\n` counts as `\n`."""
    return hashlib.sha256(data.replace(b"\r\n", b"\n")).hexdigest()


def published_checksums(directory: Path | None = None) -> dict[str, str]:
    """Read the checksum of each published profile, such as `default/1.toml`."""
    path = (directory or thresholds_directory()) / CHECKSUMS
    sums = {}
    for number, line in enumerate(_read_bytes(path).decode().splitlines(), start=1):
        match = re.fullmatch(r"([0-9a-f]{64})  (\S+)", line)
        if not match or match[2] in sums:
            raise ProfileError(
                f"{path}, line {number}: expected a checksum, two blanks and a file listed once, got {line!r}"
            )
        sums[match[2]] = match[1]
    return sums


def changed_profiles(directory: Path | None = None) -> list[str]:
    """Find the files that are changed, deleted or without a checksum, sorted."""
    directory = directory or thresholds_directory()
    actual = {
        path.relative_to(directory).as_posix(): checksum(path.read_bytes()) for path in directory.glob("*/*.toml")
    }
    published = published_checksums(directory)
    return sorted(name for name in actual.keys() | published.keys() if actual.get(name) != published.get(name))


def _split_label(spec: str, directory: Path) -> tuple[str, int]:
    try:
        name, version = read_label(spec)
    except ValueError:
        _refuse_unknown(spec, directory)
    return (name, version) if version else _refuse_unknown(spec, directory)


def _refuse_unknown(spec: str, directory: Path) -> NoReturn:
    labels = sorted(f"{path.parent.name}@{path.stem}" for path in directory.glob("*/*.toml"))
    raise ProfileError(
        f"profile {spec!r}: expected NAME@VERSION or the path of a .toml file; there are {', '.join(labels) or 'none'}"
    )


def _read_bytes(path: Path) -> bytes:
    try:
        return read_file(path, PROFILE_BYTES)
    except OSError as problem:
        raise ProfileError(f"cannot read {path}: {problem.strerror}") from None


def _check_checksum(data: bytes, name: str, directory: Path) -> None:
    expected = published_checksums(directory).get(name)
    if expected != checksum(data):
        raise ProfileError(
            f"{directory / name} is not what was published: expected checksum {expected or 'in ' + CHECKSUMS}, got "
            f"{checksum(data)}. A published version never changes: make a new version, or name your own file by path."
        )


def _check_place(profile: Profile, name: str, version: int) -> Profile:
    for key, expected, obtained in (("name", name, profile.name), ("version", version, profile.version)):
        if expected != obtained:
            raise ProfileError(f"{profile.path}: {key}: expected {expected!r} as in the path, got {obtained!r}")
    return profile
