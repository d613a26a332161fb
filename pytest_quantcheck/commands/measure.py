"""`measure`: what a model does, stored where it can be compared later and elsewhere."""

import argparse
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from pytest_quantcheck.commands.options import MEASURE, read, to_settings
from pytest_quantcheck.commands.output import FINE, say
from pytest_quantcheck.commands.stored import check_free, written
from pytest_quantcheck.errors import SettingsError
from pytest_quantcheck.libraries import ignore_library_warnings
from pytest_quantcheck.options import Settings
from pytest_quantcheck.records import REFERENCE, Measurement
from pytest_quantcheck.reporting import ProgressLine
from pytest_quantcheck.run.gate import Gate
from pytest_quantcheck.storage import save_measurement
from pytest_quantcheck.text import duration


def run(arguments: argparse.Namespace) -> int:
    """Measure the reference or one candidate, and store each prompt set's measurement.

    Raises:
        QuantcheckError: what was asked for cannot be done; whatever can be said before a model is loaded is.
    """
    given = read(arguments, MEASURE)
    _check_together(given)
    began, out = time.monotonic(), Path(given["out"])
    with ignore_library_warnings(), closing(Gate(_settings(given), _progress(), shard=given["shard"])) as gate:
        _check_shard(given["shard"], gate)
        check_free(out, gate.prompt_sets, force=given["force"])
        gate.check_prompts()
        gate.start_engine()
        for name, measurement in _stored(gate, out):
            what = written(out / name, measurement.provenance, len(measurement.answers.index))
            say([what, *gate.remarks(next(iter(gate.candidates), REFERENCE), name)])
    say([f"measured and written in {duration(time.monotonic() - began)}"])
    return FINE


def _check_together(given: dict[str, Any]) -> None:
    """Refuse too little or too much."""
    for field, what in (("model", "MODEL"), ("out", "DIR")):
        if given[field] is None and not (field == "model" and given["reference"] and given["candidate"]):
            raise SettingsError(f"--{field} is missing: add --{field}={what}")
    candidates = [*(given["bits"] or ()), *filter(None, [given["candidate"]])]
    if candidates and not given["reference"]:
        raise SettingsError(
            f"--{'bits' if given['bits'] else 'candidate'} needs a reference to measure against: measure that first, "
            "without this option, then add --reference=DIR"
        )
    if given["reference"] and len(candidates) != 1:
        raise SettingsError(
            f"--reference: expected one candidate beside it, --bits with one bit-width or --candidate, got "
            f"{len(candidates)}; measure candidates one by one, each with an --out of its own"
        )
    if given["reference"] and os.path.realpath(given["reference"]) == os.path.realpath(given["out"]):
        raise SettingsError(f"--out={given['out']} is the directory of --reference; give the candidate its own")


def _check_shard(shard: tuple[int, int] | None, gate: Gate) -> None:
    """Refuse more shards than a prompt set has batches."""
    number, count = shard or (1, 1)
    for name, prompts in gate.prompt_sets.items():
        batch_size = gate.settings.batch_size
        most = math.ceil(len(prompts) / batch_size)
        if count > most:
            raise SettingsError(
                f"--shard={number}/{count}: expected at most {most} shards of {name}, whose {len(prompts)} "
                f"prompts are {most} batches of {batch_size}; ask for fewer, or for a smaller --batch-size"
            )


def _settings(given: dict[str, Any]) -> Settings:
    """Make settings of a gate with a new reference or one candidate."""
    new = not given["reference"] and not given["shard"]
    baseline, update = (given["out"], True) if new else (given["reference"], False)
    candidates = {"bits": given["bits"] or (), "candidate": (given["candidate"],) if given["candidate"] else ()}
    return to_settings(given | candidates | {"baseline": baseline, "update_baseline": update})


def _stored(gate: Gate, out: Path) -> Iterator[tuple[str, Measurement]]:
    """Yield each prompt set's name and measurement, once it is written; the gate itself writes a whole baseline."""
    (subject,) = gate.candidates or (REFERENCE,)
    for name in gate.prompt_sets:
        measurement = gate.measure(subject, name)
        if subject != REFERENCE or measurement.provenance.shard:
            save_measurement(measurement, out / name)
        yield name, measurement


def _progress() -> Callable[[str], ProgressLine] | None:
    """Report progress in one line on a terminal, and not elsewhere."""
    return _on_terminal if sys.stderr.isatty() else None


def _on_terminal(label: str) -> ProgressLine:
    return ProgressLine(_write, subject=label, interactive=True, width=shutil.get_terminal_size().columns)


def _write(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
