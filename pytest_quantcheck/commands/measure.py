"""`measure`: what a model does, stored where it can be compared later and elsewhere."""

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_quantcheck.commands.options import MEASURE, read, to_settings
from pytest_quantcheck.commands.output import FINE, say
from pytest_quantcheck.commands.stored import check_free, size, store
from pytest_quantcheck.errors import SettingsError
from pytest_quantcheck.gate import REFERENCE, Gate
from pytest_quantcheck.records import Measurement, Provenance
from pytest_quantcheck.reporting import Progress
from pytest_quantcheck.reporting.progress import duration


def run(asked: argparse.Namespace) -> int:
    """Measure the reference, or one candidate against a stored reference, and store that prompt set by prompt set.

    Raises:
        QuantcheckError: what was asked for cannot be done; whatever can be said before a model is loaded is.
    """
    given = read(asked, MEASURE)
    _check_together(given)
    began, out = time.monotonic(), Path(given["out"])
    with warnings.catch_warnings():  # libraries warn of themselves, and nobody here can mend them
        warnings.simplefilter("ignore")
        gate = Gate(to_settings(given), _progress())
        check_free(out, gate.prompt_sets, force=given["force"])
        for name, measurement in _measurements(gate, given):
            store(measurement, out / name)
            say([_written(out / name, measurement.provenance, len(measurement.answers.index))])
    say([f"measured and written in {duration(time.monotonic() - began)}"])
    return FINE


def _check_together(given: dict[str, Any]) -> None:
    """Refuse too little or too much, and fill in what follows: no bit-widths, no model beside a released candidate."""
    for field, what in (("model", "MODEL"), ("out", "DIR")):
        if given[field] is None and not (field == "model" and given["reference"] and given["candidate"]):
            raise SettingsError(f"--{field} is missing: add --{field}={what}")
    bits, candidate = given["bits"] or (), given["candidate"]
    if not given["reference"] and (bits or candidate):
        raise SettingsError(
            f"--{'bits' if bits else 'candidate'} needs a reference to measure against: measure that first, without "
            "this option, then add --reference=DIR"
        )
    if given["reference"] and len(bits) + bool(candidate) != 1:
        raise SettingsError(
            f"--reference: expected one candidate beside it, --bits with one bit-width or --candidate, got "
            f"{len(bits) + bool(candidate)}; measure candidates one by one, each with an --out of its own"
        )
    if given["reference"] and Path(given["reference"]).resolve() == Path(given["out"]).resolve():
        raise SettingsError(f"--out={given['out']} is the directory of --reference; give the candidate its own")
    given["bits"] = bits


def _measurements(gate: Gate, given: Mapping[str, Any]) -> Iterator[tuple[str, Measurement]]:
    if not given["reference"]:
        for name in gate.prompt_sets:
            yield name, gate.measure(REFERENCE, name)
        return
    from pytest_quantcheck.commands.against import (  # noqa: PLC0415 - heavy
        Candidate,
        check_reference,
        measured_against,
    )

    candidate, reference = Candidate.of(gate.settings, given["candidate"]), Path(given["reference"])
    check_reference(reference, gate, candidate)
    yield from measured_against(reference, gate, candidate, _progress())


def _progress() -> Callable[[str], Progress] | None:
    """One line on a terminal; elsewhere nothing."""
    return _on_terminal if sys.stderr.isatty() else None


def _on_terminal(label: str) -> Progress:
    return Progress(_write, subject=label, interactive=True)


def _write(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


def _written(directory: Path, provenance: Provenance, n_prompts: int) -> str:
    subject = f"{provenance.model} as {provenance.bits}"
    return f"{directory}: {subject} on {provenance.prompt_set}, {n_prompts:,} prompts, {size(directory)}"
