"""`merge`: the shards of a measurement as one, without a model."""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from pytest_quantcheck.commands.options import MERGE, read
from pytest_quantcheck.commands.output import FINE, say
from pytest_quantcheck.commands.stored import check_free, find_measurements, written
from pytest_quantcheck.errors import ComparisonError, SettingsError, StorageError
from pytest_quantcheck.measuring.merging import check_same_origin, merge_in_order
from pytest_quantcheck.records import REFERENCE, Provenance
from pytest_quantcheck.storage import load_measurement, load_provenance, save_baseline, save_measurement
from pytest_quantcheck.text import plural, shortened


def run(arguments: argparse.Namespace) -> int:
    """Merge the shards of each prompt set, and store the whole.

    Raises:
        QuantcheckError: shards are missing, occur twice or do not belong together; nothing is written.
    """
    given = read(arguments, MERGE)
    if given["out"] is None:
        raise SettingsError("--out is missing: add --out=DIR")
    out, directories = Path(given["out"]), [Path(name) for name in arguments.shards]
    for directory in directories:
        if os.path.realpath(directory) == os.path.realpath(out):
            raise SettingsError(f"--out={out} is the directory of a shard; give the whole its own")
    shards = dict(_shards(directories))
    check_free(out, shards, force=given["force"])
    for name, folders in shards.items():
        whole = merge_in_order(map(load_measurement, folders))
        save = save_baseline if whole.provenance.bits == REFERENCE else save_measurement
        save(whole, out / name)
        say([written(out / name, whole.provenance, len(whole.answers.index))])
    return FINE


def _shards(directories: list[Path]) -> Iterator[tuple[str, list[Path]]]:
    """Yield each prompt set's name and its shards' folders, by number."""
    found = [find_measurements(directory) for directory in directories]
    for name in dict.fromkeys(name for measurements in found for name in measurements):
        folders = [measurements[name] for measurements in found if name in measurements]
        shards = [(folder, load_provenance(folder, verify=True)) for folder in folders]
        _check_counts(name, shards)
        for folder, provenance in shards[1:]:
            try:
                check_same_origin(shards[0][1], provenance)
            except ComparisonError as problem:
                raise StorageError(f"{shards[0][0]} and {folder}: {problem}") from None
        yield name, [folder for _, folder in sorted((provenance.shard, folder) for folder, provenance in shards)]


def _check_counts(prompt_set: str, shards: list[tuple[Path, Provenance]]) -> None:
    """Refuse shards that are not all of one count, each once."""
    seen: dict[int, Path] = {}
    first, expected = shards[0]
    for folder, provenance in shards:
        if provenance.shard is None or expected.shard is None:
            whole = folder if provenance.shard is None else first
            raise StorageError(f"{whole} is no shard: it was measured on all of {prompt_set}; leave it out")
        number, count = provenance.shard
        if count != expected.shard[1]:
            raise StorageError(
                f"{first} is one of {expected.shard[1]} shards and {folder} one of {count}: measure all with the same "
                "count"
            )
        if number in seen:
            raise StorageError(f"{seen[number]} and {folder} are both shard {number} of {count}: leave one out")
        seen[number] = folder
    if missing := [str(number) for number in range(1, count + 1) if number not in seen]:
        are = plural(len(missing), "is", "are")
        raise StorageError(
            f"{len(missing)} of {count} shards of {prompt_set} {are} missing: {shortened(missing, 10)}; measure with "
            f"--shard=K/{count}, and name all directories"
        )
