"""How long a run would take, from what a few prompts took."""

import dataclasses

import pytest

from pytest_quantcheck.controls.catalogue import CONTROLS
from pytest_quantcheck.measuring import NoProgress
from pytest_quantcheck.run import trial
from pytest_quantcheck.run.gate import Gate
from tests.gates import settings


class Clock:
    """Seconds that pass only when a test says so."""

    now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    """The clock of the stopwatch."""
    clock = Clock()
    monkeypatch.setattr(trial, "time", clock)
    return clock


def test_prompts_not_tried_last_as_long_as_the_second_half(clock):
    """A first batch that warms up counts once, and each prompt set has its own rate."""
    stopwatch = trial._Stopwatch(None)
    for name, batches in (("slow", (10, 4)), ("fast", (3, 1))):
        with stopwatch.reporting(f"reference on {name}") as reporter:
            reporter.start("measuring", 8)
            for seconds in batches:
                clock.now += seconds
                reporter.advance(4)
            reporter.finish()
    clock.now += 7  # loading, comparing
    more = {"measuring": {"slow": 100, "fast": 200}, "attributing": {"slow": 0, "fast": 0}}
    assert stopwatch.lap(more) == 10 + 4 + 3 + 1 + 7 + 100 * 1 + 200 * 0.25
    clock.now += 2
    assert stopwatch.lap(more) == 2  # the next model begins anew


@pytest.mark.parametrize(
    ("batches", "rate"), [([], 0), ([(8, 4)], 0.5), ([(3, 9), (5, 10)], 2), ([(8, 80), (4, 4), (4, 8)], 1.5)]
)
def test_rate_of_the_second_half(batches, rate, clock):
    """With one batch it is that of the whole; a phase that has nothing to do takes no time."""
    stopwatch = trial._Stopwatch(None)
    with stopwatch.reporting("int8 on builtin") as reporter:
        reporter.start("attributing", 16)
        for prompts, seconds in batches:
            clock.now += seconds
            reporter.advance(prompts)
    spent = sum(seconds for _, seconds in batches)
    assert stopwatch.lap({"attributing": {"builtin": 10}}) == spent + 10 * rate


def test_progress_goes_on_to_the_terminal():
    """All that is reported reaches the reporter behind the stopwatch."""
    seen = []

    class Reporter(NoProgress):
        def say(self, what, *, log=False):
            seen.append((what, log))

        def note(self, what):
            seen.append(what)

        def start(self, label, total):
            seen.append((label, total))

        def advance(self, n=1):
            seen.append(n)

        def finish(self):
            seen.append("end")

    timed = trial._TimedProgress(Reporter(), "int8 on builtin", [])
    timed.say("loading", log=True)
    timed.start("measuring", 9)
    timed.advance(8)
    timed.note("weak")
    timed.finish()
    assert seen == [("loading", True), ("measuring", 9), 8, "weak", "end"]


@pytest.mark.parametrize("stored", [False, True])
def test_control_counts_as_the_reference_and_a_baseline_as_nothing(tmp_path, stored):
    """Every model of a run is named once, in the order of the run; the baseline and the cache stay as they are."""
    asked = settings(bits=("int8",), controls=True, cache=str(tmp_path / "cache"))
    if stored:
        baseline = str(tmp_path / "baseline")
        Gate(dataclasses.replace(asked, baseline=baseline, update_baseline=True)).measure()
        asked = dataclasses.replace(asked, baseline=baseline)
    gate = Gate(asked)
    before = sorted(tmp_path.rglob("*"))
    found = dict(trial.time_run(gate))
    assert list(found) == ["int8", "controls"] if stored else ["reference", "int8", "controls"]
    if not stored:
        assert found["controls"] == len(CONTROLS) * found["reference"]
    assert sorted(tmp_path.rglob("*")) == before
