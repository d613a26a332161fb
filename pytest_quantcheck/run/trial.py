"""How long a run takes: each model is loaded and measures a few prompts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from pytest_quantcheck.measuring import NoProgress
from pytest_quantcheck.options import Settings
from pytest_quantcheck.records import REFERENCE
from pytest_quantcheck.run.gate import Gate

if TYPE_CHECKING:
    from pytest_quantcheck.measuring import ProgressReporter
    from pytest_quantcheck.run.reporters import Progress

SAMPLES = 32
"""Prompts of each set that a trial measures: two batches of the default size."""

ATTRIBUTED = 16
"""Prompts of each set that a trial attributes: hopeless layers are given up within the first half."""


class Duration(NamedTuple):
    """Seconds that a run would take for one of its models.

    The name is that of the reference or of a candidate, or `controls` for all of them.
    """

    name: str
    seconds: float


def time_run(gate: Gate, progress: Progress | None = None) -> Iterator[Duration]:
    """Yield how long a run would take for each of its models.

    Each is loaded, measured on a few prompts of each set, and compared. The run's other prompts are taken to last as
    long as the second half of these, and a control as long as the reference. Nothing is taken from the cache.

    Args:
        gate: the run's.
        progress: makes the progress reporter for the measurement of a name, or None.

    Raises:
        QuantcheckError: a model that cannot be loaded, measured or compared.
    """
    settings, stopwatch = gate.settings, _Stopwatch(progress)
    trial = Gate(_trial_settings(settings), stopwatch.reporting)
    more = {
        "measuring": {name: len(prompts) - len(trial.prompt_sets[name]) for name, prompts in gate.prompt_sets.items()},
        "attributing": {
            name: min(len(prompts), settings.attribution_samples) - min(len(prompts), ATTRIBUTED)
            for name, prompts in gate.prompt_sets.items()
        },
    }
    for name in trial.prompt_sets:
        trial.measure(REFERENCE, name)
    reference = stopwatch.lap(more)
    if not settings.baseline or settings.update_baseline:
        yield Duration(REFERENCE, reference)
    for candidate in trial.candidates:
        for name in trial.prompt_sets:
            trial.compare(candidate, name)
        yield Duration(candidate, stopwatch.lap(more))
    if gate.controls:
        yield Duration("controls", len(gate.controls) * reference)


def _trial_settings(settings: Settings) -> Settings:
    """Make the settings of a trial: few prompts, and nothing read from or kept on disk."""
    return replace(
        settings,
        samples=min(settings.samples, SAMPLES),
        attribution_samples=min(settings.attribution_samples, ATTRIBUTED),
        baseline=None,
        update_baseline=False,
        cache=None,
    )


class _Stopwatch:
    """Times the phases of measurements."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._began, self._phases = time.monotonic(), list[_Phase]()

    @contextmanager
    def reporting(self, subject: str) -> Iterator[_TimedProgress]:
        """Make a progress reporter that times what it hands on."""
        with self._progress(subject) if self._progress else nullcontext() as reporter:
            yield _TimedProgress(reporter or NoProgress(), subject, self._phases)

    def lap(self, more: Mapping[str, Mapping[str, int]]) -> float:
        """Count the seconds since the last lap, with more prompts.

        `more`: how many, by phase and prompt set.
        """
        further = sum(
            phase.rate * n
            for phase in self._phases
            for name, n in more[phase.label].items()
            if phase.subject.endswith(f" on {name}")
        )
        took, self._began = time.monotonic() - self._began, time.monotonic()
        self._phases.clear()
        return took + further


@dataclass
class _Phase:
    """One phase of a measurement; `marks`: the number of finished prompts, and when they were."""

    subject: str
    label: str
    marks: list[tuple[int, float]] = field(default_factory=lambda: [(0, time.monotonic())])

    @property
    def rate(self) -> float:
        """Seconds for a prompt of the second half."""
        *before, (total, ended) = self.marks
        if not before:
            return 0.0
        done, began = next((mark for mark in before if 2 * mark[0] >= total), before[-1])
        return (ended - began) / (total - done)


class _TimedProgress:
    """Times phases, and hands on what is reported."""

    def __init__(self, reporter: ProgressReporter, subject: str, phases: list[_Phase]) -> None:
        self._reporter, self._subject, self._phases = reporter, subject, phases

    def say(self, what: str, *, log: bool = False) -> None:
        self._reporter.say(what, log=log)

    def note(self, what: str) -> None:
        self._reporter.note(what)

    def start(self, label: str, total: int) -> None:
        self._phases.append(_Phase(self._subject, label))
        self._reporter.start(label, total)

    def advance(self, n: int = 1) -> None:
        marks = self._phases[-1].marks
        marks.append((marks[-1][0] + n, time.monotonic()))
        self._reporter.advance(n)

    def decided(self, hopeless: frozenset[int]) -> None:
        self._reporter.decided(hopeless)

    def workers(self, lines: Sequence[str]) -> None:
        self._reporter.workers(lines)

    def finish(self) -> None:
        self._reporter.finish()
