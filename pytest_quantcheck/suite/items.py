"""The packaged suite that `--quantcheck-model` collects: one test per metric, candidate and prompt set.

With `--quantcheck-controls` one more for each control and prompt set.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest

from pytest_quantcheck.controls.certificate import ControlResult
from pytest_quantcheck.errors import QuantcheckError
from pytest_quantcheck.metric_names import MetricName
from pytest_quantcheck.reporting import (
    control_message,
    nothing_judged,
    printable,
    ungated_properties,
    verdict_properties,
)
from pytest_quantcheck.run.gate import Gate

SUITE = "quantcheck"
_MEASURING = "quantcheck_measuring_seconds"
CONTROL = "control"
"""What stands in the place of a metric in the node ids of controls, and what their items have found."""
VERDICT, COMPARISON = "verdict", "comparison"
"""What an item has found: what the profile says of its metric, and how far its candidate moved."""
CALIBRATED = "calibrated"
"""What a control's item has found where a profile is to be written: how far the control moved."""


class AcceptanceSuite(pytest.Collector):
    """The items of a gate, one candidate after another.

    So each model is loaded once.
    """

    gate: Gate
    wanted: Sequence[str]

    @classmethod
    def of(cls, session: pytest.Session, gate: Gate, wanted: Sequence[str] = ()) -> AcceptanceSuite:
        """Make a gate's suite, or the part that node ids name."""
        suite: AcceptanceSuite = cls.from_parent(session, name=SUITE, nodeid=SUITE)
        suite.gate, suite.wanted = gate, wanted
        return suite

    def collect(self) -> Iterator[PackagedItem]:
        """Yield the items of candidates, then those of controls."""
        for case in _cases(self.gate):
            if not self.wanted or any(_is_named(_nodeid(*case), nodeid) for nodeid in self.wanted):
                yield (ControlItem if case[0] == CONTROL else AcceptanceItem).of(self, *case)


class PackagedItem(pytest.Item):
    """An item of the packaged suite; `records` are what its report carries, by kind."""

    metric: str
    candidate: str
    prompts: str
    records: dict[str, msgspec.Struct]

    @classmethod
    def of(cls, suite: AcceptanceSuite, metric: str, candidate: str, prompts: str) -> Self:
        """Make the item for a metric, candidate and prompt set."""
        nodeid = _nodeid(metric, candidate, prompts)  # in full: put together from names, --lf does not know it again
        item: Self = cls.from_parent(suite, name=nodeid.removeprefix(f"{SUITE}::"), nodeid=nodeid)
        item.metric, item.candidate, item.prompts, item.records = metric, candidate, prompts, {}
        item.add_marker(SUITE)
        return item

    def setup(self) -> None:
        """Measure what is missing, and tell how long that took: the tests of a candidate have it in common."""
        began = time.perf_counter()
        try:
            self.measure()
        finally:
            self.user_properties.append((_MEASURING, round(time.perf_counter() - began, 3)))

    @abstractmethod
    def measure(self) -> None:
        """Find what this item judges; what cannot be read or measured is an error, not a failure."""

    @property
    def gate(self) -> Gate:
        """The gate of the run."""
        gate: Gate = self.parent.gate  # type: ignore[union-attr]
        return gate

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException]) -> Any:  # type: ignore[override]
        """Show the message alone for expected errors; a traceback for all others.

        A `UserWarning` here is our own, made an error by `-W error`: the gate silences all others.
        """
        if isinstance(excinfo.value, QuantcheckError | AssertionError | UserWarning):
            text = "\n".join(map(printable, str(excinfo.value).splitlines()))  # a model's files may be quoted in it
            return text.partition("\n")[0] if self.config.option.tbstyle == "line" else text
        return super().repr_failure(excinfo)

    def _traceback_filter(self, excinfo: pytest.ExceptionInfo[BaseException]) -> Any:
        """Leave one entry of an expected error: pytest formats a traceback after setup that is shown nowhere."""
        entries = excinfo.traceback
        return entries[-1:] if isinstance(excinfo.value, QuantcheckError) else entries

    def reportinfo(self) -> tuple[Path, int, str]:
        """Where pytest says the item is from."""
        return Path(__file__), 0, f"{SUITE}::{self.name}"  # a line: pytest needs one of a skipped test


class AcceptanceItem(PackagedItem):
    """One metric of one candidate on one prompt set."""

    metric: MetricName

    def measure(self) -> None:
        """Measure what is missing, and compare."""
        self.records[COMPARISON] = self.gate.compare(self.candidate, self.prompts)

    def runtest(self) -> None:
        """Judge the comparison.

        An unmet limit fails with the verdict's text. A metric without a limit in this case is skipped, unless nothing
        at all is judged of the candidate on this prompt set: then its tests fail.
        """
        verdict = self.gate.judge(self.metric, self.candidate, self.prompts)
        comparison = self.gate.compare(self.candidate, self.prompts)
        case = f"{self.metric} in this case, {comparison.n_prompts} prompts"
        ungated = f"{self.gate.profile.label} has no limit for {case}"
        self.user_properties += (
            verdict_properties(verdict) if verdict else ungated_properties(comparison, self.metric, reason=ungated)
        )
        open_case = verdict is None or (verdict.status == "unmeasured" and verdict.acceptable)
        if open_case and not self._is_anything_judged():
            raise AssertionError(nothing_judged(self.candidate, self.prompts, self.gate.profile.label))
        if verdict is None:
            pytest.skip(ungated)
        self.records[VERDICT] = verdict
        from pytest_quantcheck.assertions import enforce  # noqa: PLC0415 - heavy, and imported by the gate by now

        enforce(verdict)

    def _is_anything_judged(self) -> bool:
        """Tell whether any selected test beside this one judges a value."""
        tests = (item for item in self.session.items if isinstance(item, AcceptanceItem))
        own = (self.candidate, self.prompts)
        return any(item.is_judged() for item in tests if (item.candidate, item.prompts) == own)

    def is_judged(self) -> bool:
        """Tell whether this test judges a value."""
        try:
            verdict = self.gate.judge(self.metric, self.candidate, self.prompts)
        except QuantcheckError:
            return False
        return verdict is not None and verdict.status != "unmeasured"


class ControlItem(PackagedItem):
    """One control on one prompt set; `candidate` is the control's name."""

    result: ControlResult

    def measure(self) -> None:
        """Measure and judge the control."""
        self.result = self.gate.judge_control(self.candidate, self.prompts)

    def runtest(self) -> None:
        """Fail on a control that did not do what it must; skip inapplicable ones.

        A null or a rewrite must pass every metric, a defect must be seen by one.
        """
        result = self.records[CONTROL] = self.result
        if result.outcome == "not applicable":
            pytest.skip(result.reason)
        if self.gate.settings.calibrate and result.verdicts:
            self.records[CALIBRATED] = self.gate.compare(self.candidate, self.prompts)
        if result.outcome == "failed":
            raise AssertionError(control_message(result))


def check_names(gate: Gate, wanted: Sequence[str]) -> None:
    """Refuse node ids that name no packaged test, before collection.

    Raises:
        pytest.UsageError: the packaged suite has no such test.
    """
    items = list(cases_by_nodeid(gate))
    for nodeid in wanted:
        if not any(_is_named(item, nodeid) for item in items):
            few = ", ".join(items[:3])
            raise pytest.UsageError(f"not found: {nodeid} (the packaged suite has {len(items)} items: {few}, …)")


def is_suite(argument: str) -> bool:
    """Whether a command-line argument is a node id of the packaged suite; a folder of that name comes first."""
    path, colons, _ = argument.partition("::")
    if colons:
        return path == SUITE or (Path(path).name == SUITE and not Path(path).exists())
    return path == SUITE and not Path(path).exists()


def own_nodeid(argument: str) -> str:
    """Remove the path that pytest prints before a packaged node id."""
    path, colons, rest = argument.partition("::")
    return f"{Path(path).name}{colons}{rest}"


def cases_by_nodeid(gate: Gate) -> dict[str, tuple[str, str, str]]:
    """Each test of the suite by its node id: the metric, or `CONTROL`; the candidate or control; the prompt set."""
    return {_nodeid(*case): case for case in _cases(gate)}


def _cases(gate: Gate) -> Iterator[tuple[str, str, str]]:
    """Yield metric, candidate and prompt set; what too few prompts leave ungated comes last of its set.

    The first test of a candidate takes the time of measuring it, and that must not stand at a skipped one.
    """
    for candidate in gate.candidates:
        for prompts, questions in gate.prompt_sets.items():
            for metric in sorted(gate.metrics, key=lambda name: gate.profile.fewest_prompts(name) > len(questions)):
                yield metric, candidate, prompts
    for control in gate.controls:
        for prompts in gate.prompt_sets:
            yield CONTROL, control, prompts


def _nodeid(metric: str, candidate: str, prompts: str) -> str:
    return f"{SUITE}::test_{metric}[{candidate}-{prompts}]"


def _is_named(item: str, nodeid: str) -> bool:
    """Whether a node id is that of an item: the suite, a test, or a test with its parameters."""
    return nodeid in (SUITE, item, item.split("[", maxsplit=1)[0])
