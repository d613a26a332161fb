"""Directories with one measurement for each prompt set: what lies in them, and whether one can be written."""

from collections.abc import Collection
from pathlib import Path

from pytest_quantcheck.errors import SettingsError, StorageError
from pytest_quantcheck.records import Provenance
from pytest_quantcheck.storage import check_writable, holds_measurement, load_provenance
from pytest_quantcheck.storage.measurement_files import FILE


def find_measurements(directory: Path) -> dict[str, Path]:
    """Each measurement's directory by its prompt set: those inside a directory, or that which it is itself.

    Raises:
        StorageError: there is none, one cannot be read, or two are of one prompt set.
    """
    folders = [directory] if holds_measurement(directory) else list(filter(holds_measurement, _folders(directory)))
    if not folders:
        raise StorageError(
            f"{directory}: expected a measurement, or a directory with one for each prompt set; found none. Check the "
            "path, or write one with `python -m pytest_quantcheck measure --out`."
        )
    measurements: dict[str, Path] = {}
    for folder in folders:
        name = load_provenance(folder).prompt_set
        if name in measurements:
            raise StorageError(
                f"{measurements[name]} and {folder} are both measurements on {name}: take one of them away"
            )
        measurements[name] = folder
    return measurements


def written(directory: Path, provenance: Provenance, n_prompts: int) -> str:
    """Say what a directory's measurement is of, and how large it is."""
    shard = "shard {} of {}, ".format(*provenance.shard) if provenance.shard else ""
    subject = f"{provenance.model} as {provenance.bits} on {provenance.prompt_set}"
    return f"{directory}: {subject}, {shard}{n_prompts:,} prompts, {size(directory)}"


def size(directory: Path) -> str:
    """How large the files in a directory are, such as `1.2 MB`."""
    return f"{sum(path.stat().st_size for path in directory.iterdir()) / 1e6:,.1f} MB"


def check_free(directory: Path, prompt_sets: Collection[str], *, force: bool) -> None:
    """Refuse a directory that cannot be written or holds a measurement.

    Raises:
        StorageError: it cannot be written.
        SettingsError: it holds a measurement; says where.
    """
    check_writable("--out", directory, *(f"{name}/{FILE}" for name in prompt_sets))
    for folder in (directory, *(directory / name for name in prompt_sets)):
        if not force and holds_measurement(folder):
            raise SettingsError(
                f"--out={directory}: {folder} holds a measurement already; choose another directory, or replace it "
                "with --force"
            )


def _folders(directory: Path) -> list[Path]:
    return sorted(path for path in directory.iterdir() if path.is_dir()) if directory.is_dir() else []
