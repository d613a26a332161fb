"""Findings on each candidate: outcome, what moved, how much, where, what to do."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.records import WORST_FIRST, Verdict
from pytest_quantcheck.reporting.html.texts import visible
from pytest_quantcheck.reporting.outcomes import CandidateOutcome, outcomes
from pytest_quantcheck.reporting.report import Report
from pytest_quantcheck.reporting.wording import (
    bound,
    headline,
    interval_text,
    next_step,
    number,
    reason_to_accept,
    value_text,
)
from pytest_quantcheck.text import counted

MARKS = {"passed": "✓", "failed": "✗", "inconclusive": "?", "unmeasured": "!"}
"""Symbol of each status of a verdict."""


class Objection(NamedTuple):
    """A verdict against a candidate, or a warning, in words."""

    sentence: str
    status: str
    meaning: str
    beyond: str
    amount: str
    where: str
    advice: str
    section: str


class CandidateSummary(NamedTuple):
    """Findings on one candidate; `causes`: why tests of it have no verdict."""

    candidate: str
    status: str
    sentence: str
    causes: tuple[str, ...]
    against: tuple[Objection, ...]
    warnings: tuple[Objection, ...]


def release_headline(report: Report, summaries: Sequence[CandidateSummary]) -> str:
    """Say in one sentence what must not be released, if anything."""
    if bad := _named(summaries, "failed"):
        return f"Not fit for release: {bad}"
    if unjudged := _named(summaries, "none"):
        return f"Could not be judged: {unjudged}"
    if report.outcome == "partial":
        return f"A part of the gate: {_named(summaries, 'passed') or 'no candidate'} met every limit that was tested"
    if report.certificate and report.certificate.outcome == "failed":
        return "The gate failed its controls, and no verdict stands against a candidate"
    if report.outcome != "passed":
        return "The run failed, and no verdict stands against a candidate: see its output"
    return f"May be released: {_named(summaries, 'passed')}"


def unopposed(summaries: Sequence[CandidateSummary]) -> str:
    """Name what could be released instead of a failed candidate; else empty."""
    good = _named(summaries, "passed")
    return f"No verdict stands against {good}." if good and _named(summaries, "failed") else ""


def findings_of(report: Report, sections: Mapping[tuple[str, str], str]) -> list[CandidateSummary]:
    """Collect the findings on each candidate, failed candidates first.

    Args:
        report: the run.
        sections: the name of the page's section on each candidate and prompt set.
    """
    return [_findings(outcome, report, sections) for outcome in outcomes(report)]


def _findings(outcome: CandidateOutcome, report: Report, sections: Mapping[tuple[str, str], str]) -> CandidateSummary:
    return CandidateSummary(
        candidate=visible(outcome.candidate),
        status="failed" if outcome.unfit else "passed" if outcome.fit else "none",
        sentence=outcome.facts,
        causes=tuple(map(visible, dict.fromkeys(outcome.causes))),
        against=tuple(_finding(verdict, report, sections) for verdict in sorted(outcome.against, key=_severity_key)),
        warnings=tuple(_finding(verdict, report, sections) for verdict in outcome.warnings),
    )


def _named(summaries: Sequence[CandidateSummary], status: str) -> str:
    return ", ".join(summary.candidate for summary in summaries if summary.status == status)


def _severity_key(verdict: Verdict) -> tuple[int, float]:
    """Rank the worst status first, then the furthest beyond its limit."""
    return WORST_FIRST.index(verdict.status), -_times(verdict)


def _times(verdict: Verdict) -> float:
    """Divide value by limit, above 1 on the failing side; 0 if undefined."""
    value, limit = verdict.estimate.value, verdict.limit
    if value is None or min(value, limit) <= 0:
        return 0.0
    return value / limit if verdict.direction == "max" else limit / value


def _finding(verdict: Verdict, report: Report, sections: Mapping[tuple[str, str], str]) -> Objection:
    return Objection(
        sentence=headline(verdict),
        status=verdict.status,
        meaning=METRICS[verdict.metric].meaning,
        beyond=_beyond_by(verdict),
        amount=_amount(verdict),
        where=_where(verdict, report),
        advice="; ".join(filter(None, (reason_to_accept(verdict), next_step(verdict)))),
        section=sections[verdict.candidate, verdict.prompt_set],
    )


def _amount(verdict: Verdict) -> str:
    estimate = verdict.estimate
    if estimate.value is None:
        return f"no value: {estimate.reason or 'it was not measured'}; limit {bound(verdict)}"
    facts = [value_text(estimate), f"limit {bound(verdict)}", interval_text(estimate)]
    if estimate.reference is not None and estimate.candidate is not None:
        facts.append(f"{number(estimate.reference)} in the reference, {number(estimate.candidate)} in the candidate")
    return ", ".join(facts)


def _beyond_by(verdict: Verdict) -> str:
    """Say how far beyond its limit a value is; empty where it is within."""
    value = verdict.estimate.value
    if value is None or not _beyond(value, verdict):
        return ""
    return f"{number(abs(value - verdict.limit))} {METRICS[verdict.metric].failing_side} the limit"


def _where(verdict: Verdict, report: Report) -> str:
    """Name the layers beyond the limit, or without a value."""
    if verdict.estimate.layer is None:
        return ""
    missing = verdict.estimate.value is None
    layers = [
        estimate
        for comparison in report.comparisons
        if (comparison.candidate, comparison.prompt_set) == (verdict.candidate, verdict.prompt_set)
        for estimate in comparison.of(verdict.metric)
        if estimate.applicable and estimate.layer is not None
    ]
    met = [
        estimate.layer or 0
        for estimate in layers
        if (estimate.value is None if missing else _beyond(estimate.value, verdict))
    ]
    if met:
        what = "no value" if missing else "value beyond the limit"
        return f"{what} at {len(met)} of {counted(len(layers), 'layer')}: {_spans(met)}"
    return f"{'no value' if missing else 'worst'} at layer {verdict.estimate.layer}"


def _spans(layers: Sequence[int]) -> str:
    """Join ascending layer numbers; three or more in a row as a range.

    >>> _spans([0, 2, 3, 4, 6, 7])
    '0, 2 to 4, 6, 7'
    """
    runs = [[pair[1] for pair in run] for _, run in groupby(enumerate(layers), lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


def _beyond(value: float | None, verdict: Verdict) -> bool:
    if value is None:
        return False
    return value > verdict.limit if verdict.direction == "max" else value < verdict.limit
