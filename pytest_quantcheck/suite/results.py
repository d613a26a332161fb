"""Results of a run's tests: attached to pytest's reports, also in xdist's workers, and gathered from them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import msgspec
import pytest

from pytest_quantcheck.controls.certificate import ControlResult, in_order, without_verdicts
from pytest_quantcheck.records import Comparison, NotRun, Verdict
from pytest_quantcheck.reporting import RunOutcome, nothing_judged, printable
from pytest_quantcheck.run.gate import Gate
from pytest_quantcheck.suite.items import (
    CALIBRATED,
    COMPARISON,
    CONTROL,
    VERDICT,
    PackagedItem,
    cases_by_nodeid,
    is_suite,
    own_nodeid,
)

_CARRIED = "quantcheck"
_RECORDS: Mapping[str, type[msgspec.Struct]] = {
    VERDICT: Verdict,
    COMPARISON: Comparison,
    CONTROL: ControlResult,
    CALIBRATED: Comparison,
}


class Results:
    """Attaches results to tests' reports, and gathers them for the summary.

    `outcomes` are those of the packaged tests, `error` where one could not judge; `causes`, by candidate, what went
    wrong in each test without a verdict; `forgiven` the tests whose verdict stands although a mark or a plugin let them
    pass; `calibrated` the comparisons of controls from which limits are to be made.
    """

    def __init__(self, gate: Gate) -> None:
        self.outcomes: set[str] = set()
        self.causes: dict[str, list[str]] = {}
        self.forgiven: list[str] = []
        self.calibrated: list[Comparison] = []
        self._gate, self._cases = gate, cases_by_nodeid(gate)
        self._verdicts: dict[tuple[int, ...], Verdict] = {}
        self._comparisons: dict[tuple[int, ...], Comparison] = {}
        self._controls: dict[tuple[str, str], ControlResult] = {}
        self._sent: set[tuple[int, ...]] = set()
        self._selected: set[tuple[str, str]] = set()
        self._explained: set[tuple[str, str]] = set()
        self._run: set[str] = set()
        self._shown: dict[str, str] = {}

    @property
    def verdicts(self) -> list[Verdict]:
        """In the order of the suite, whichever worker was first."""
        return [self._verdicts[place] for place in sorted(self._verdicts)]

    @property
    def comparisons(self) -> list[Comparison]:
        """In the order of the suite, whichever worker was first."""
        return [self._comparisons[place] for place in sorted(self._comparisons)]

    @property
    def controls(self) -> tuple[ControlResult, ...]:
        """In their own order, whichever worker was first."""
        return in_order(self._controls.values())

    def attach(self, item: pytest.Item, report: Any, call: pytest.CallInfo[None]) -> None:
        """Attach a packaged test's results to its report, as text.

        A comparison is large, and all metrics of a candidate have it in common: it goes with the first of them.
        """
        if not isinstance(item, PackagedItem):
            return
        if call.when == "setup" and call.excinfo and report.failed:
            report.longrepr = item.repr_failure(call.excinfo)  # pytest asks the item itself only after a call
        elif call.when == "call":
            news = {
                kind: record for kind, record in item.records.items() if kind != COMPARISON or self._is_news(record)
            }
            setattr(report, _CARRIED, {kind: msgspec.json.encode(record).decode() for kind, record in news.items()})

    def take(self, report: pytest.TestReport) -> None:
        """Gather the outcome and results from a packaged test's report.

        Where there is no verdict, keep the reason.
        """
        if not is_suite(report.nodeid):
            return
        self.outcomes.add("error" if report.failed and report.when != "call" else report.outcome)
        nodeid = own_nodeid(report.nodeid)
        metric, subject, prompts = self._cases[nodeid]
        if metric != CONTROL:
            self._selected.add((subject, prompts))
        if report.when == "call" or report.failed:
            self._run.add(nodeid)
        carried = getattr(report, _CARRIED, {})
        for kind, text in carried.items():
            record = msgspec.json.decode(text, type=_RECORDS[kind])
            self._keep(kind, record)
            if _speaks_against(record) and not report.failed:
                self.forgiven.append(nodeid)
        if _lacks_result(report):
            self._keep_cause(metric, subject, prompts, _cause(report))

    def refer_to_first(self, report: pytest.TestReport) -> None:
        """Replace a cause that another test has shown by its name."""
        if is_suite(report.nodeid) and _lacks_result(report):
            nodeid = own_nodeid(report.nodeid)
            first = self._shown.setdefault(str(report.longrepr), nodeid)
            if first != nodeid:
                report.longrepr = printable(f"could not be judged: the same cause as {first}, see above")

    @property
    def not_run(self) -> tuple[NotRun, ...]:
        """The tests that were left out, in the order of the suite."""
        tests: dict[str, list[str]] = {}
        for nodeid, (_, subject, _) in self._cases.items():
            tests.setdefault(subject, []).append(nodeid)
        left_out = {subject: [nodeid for nodeid in own if nodeid not in self._run] for subject, own in tests.items()}
        return tuple(
            NotRun(candidate=subject, tests=tuple(left), whole=left == tests[subject])
            for subject, left in left_out.items()
            if left
        )

    @property
    def outcome(self) -> RunOutcome:
        """The outcome of the run: that of verdicts and controls, and no better than that of any test."""
        unfit = not all(verdict.acceptable for verdict in self._verdicts.values())
        uncontrolled = any(result.outcome == "failed" for result in self._controls.values())
        if unfit or uncontrolled or "failed" in self.outcomes:
            return "failed"
        if "error" in self.outcomes:
            return "broken"
        if self.causes or not (self._verdicts or self.not_run):
            return "failed"
        return "partial" if self.not_run else "passed"

    def find_unjudged(self) -> None:
        """Find candidates of which no value was judged on a prompt set.

        Those of which a test was selected get a cause, if they have none.
        """
        judged = {
            (verdict.candidate, verdict.prompt_set)
            for verdict in self._verdicts.values()
            if verdict.status != "unmeasured"
        }
        unjudged = self._selected - judged - self._explained
        for candidate, prompts in product(self._gate.candidates, self._gate.prompt_sets):
            if (candidate, prompts) in unjudged:
                cause = nothing_judged(candidate, prompts, self._gate.profile.label)
                self.causes.setdefault(candidate, []).append(cause)

    def _is_news(self, comparison: Any) -> bool:
        place = self._place(comparison)
        new = place not in self._sent
        self._sent.add(place)
        return new

    def _keep(self, kind: str, record: Any) -> None:
        if kind == VERDICT:
            self._verdicts[self._place(record)] = record
        elif kind == COMPARISON:
            place = self._place(record)
            earlier = self._comparisons.get(place, record)
            self._comparisons[place] = max(
                record, earlier, key=lambda comparison: len(comparison.notes)
            )  # one worker met the damage
        elif kind == CONTROL:
            self._controls[record.control, record.prompt_set] = record
        else:
            self.calibrated.append(record)

    def _keep_cause(self, metric: str, subject: str, prompts: str, cause: str) -> None:
        if metric == CONTROL:
            self._keep(CONTROL, without_verdicts(subject, prompts, "failed", cause))
        else:
            self.causes.setdefault(subject, []).append(cause)
            self._explained.add((subject, prompts))

    def _place(self, record: Verdict | Comparison) -> tuple[int, ...]:
        """Where a record stands in the suite."""
        gate = self._gate
        place = gate.candidates.index(record.candidate), list(gate.prompt_sets).index(record.prompt_set)
        return (*place, gate.metrics.index(record.metric)) if isinstance(record, Verdict) else place


def _speaks_against(record: msgspec.Struct) -> bool:
    """Tell whether a verdict or control fails the gate."""
    if isinstance(record, Verdict):
        return not record.acceptable
    return isinstance(record, ControlResult) and record.outcome == "failed"


def _lacks_result(report: pytest.TestReport) -> bool:
    """Tell whether a packaged test ended badly before it had a verdict."""
    carried = getattr(report, _CARRIED, {})
    return report.failed and report.when != "teardown" and not carried.keys() & {VERDICT, CONTROL}


def _cause(report: pytest.TestReport) -> str:
    """Find the error's first line, without xdist's line about the worker."""
    crash = getattr(report.longrepr, "reprcrash", None)
    return next(iter((crash.message if crash else str(report.longrepr)).splitlines()), "an error without a message")
