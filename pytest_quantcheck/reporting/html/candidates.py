"""What a run says of each candidate: the outcome first, then what moved, how much, where, and what to do."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.plurals import counted
from pytest_quantcheck.records import WORST_FIRST, Verdict
from pytest_quantcheck.reporting.html.texts import visible
from pytest_quantcheck.reporting.json_report import Report
from pytest_quantcheck.reporting.outcomes import CandidateOutcome, outcomes
from pytest_quantcheck.reporting.wording import (
    bound,
    concession,
    headline,
    interval_text,
    next_step,
    number,
    value_text,
)

MARKS = {"passed": "✓", "failed": "✗", "inconclusive": "?", "unmeasured": "!"}
"""Signs of a verdict's statuses."""


class Objection(NamedTuple):
    """A verdict that stands against a candidate, or lets it pass with a word: what, how much, where, what to do."""

    sentence: str
    status: str
    meaning: str
    beyond: str
    amount: str
    where: str
    advice: str
    section: str


class CandidateSummary(NamedTuple):
    """What a run says of one candidate; `causes` are why tests of it reached no verdict."""

    candidate: str
    status: str
    sentence: str
    causes: tuple[str, ...]
    against: tuple[Objection, ...]
    warnings: tuple[Objection, ...]


def release_headline(report: Report, found: Sequence[CandidateSummary]) -> str:
    """One sentence on the whole run: what may not be released, or that nothing stands against it."""
    if bad := _named(found, "failed"):
        return f"Not fit for release: {bad}"
    if unjudged := _named(found, "none"):
        return f"Could not be judged: {unjudged}"
    if report.certificate and report.certificate.outcome == "failed":
        return "The gate failed its controls, and no verdict stands against a candidate"
    if report.outcome == "failed":
        return "The run failed, and no verdict stands against a candidate: see its output"
    return f"Nothing against a release of {_named(found, 'passed')}"


def unopposed(found: Sequence[CandidateSummary]) -> str:
    """What could be released in place of a candidate that failed; nothing where none failed, or all did."""
    good = _named(found, "passed")
    return f"No verdict stands against {good}." if good and _named(found, "failed") else ""


def findings_of(report: Report, sections: Mapping[tuple[str, str], str]) -> list[CandidateSummary]:
    """What the run says of each candidate, those that failed first.

    Args:
        report: the run.
        sections: the name of the page's section on each candidate and prompt set.
    """
    return [_findings(outcome, report, sections) for outcome in outcomes(report.verdicts, report.causes)]


def _findings(outcome: CandidateOutcome, report: Report, sections: Mapping[tuple[str, str], str]) -> CandidateSummary:
    return CandidateSummary(
        candidate=visible(outcome.candidate),
        status="failed" if outcome.against else "passed" if outcome.fit else "none",
        sentence=outcome.facts,
        causes=tuple(map(visible, dict.fromkeys(outcome.causes))),
        against=tuple(_finding(verdict, report, sections) for verdict in sorted(outcome.against, key=_order)),
        warnings=tuple(_finding(verdict, report, sections) for verdict in outcome.warnings),
    )


def _named(found: Sequence[CandidateSummary], status: str) -> str:
    return ", ".join(one.candidate for one in found if one.status == status)


def _order(verdict: Verdict) -> tuple[int, float]:
    """The worst status first, and of one status the furthest beyond its limit."""
    return WORST_FIRST.index(verdict.status), -_times(verdict)


def _times(verdict: Verdict) -> float:
    """How many times the limit the value is, or the limit the value; 0 where that is not defined."""
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
        advice="; ".join(filter(None, (concession(verdict), next_step(verdict)))),
        section=sections[verdict.candidate, verdict.prompt_set],
    )


def _amount(verdict: Verdict) -> str:
    found = verdict.estimate
    if found.value is None:
        return f"no value: {found.reason or 'it was not measured'}; limit {bound(verdict)}"
    facts = [value_text(found), f"limit {bound(verdict)}", interval_text(found)]
    if found.reference is not None and found.candidate is not None:
        facts.append(f"{number(found.reference)} in the reference, {number(found.candidate)} in the candidate")
    return ", ".join(facts)


def _beyond_by(verdict: Verdict) -> str:
    """How far beyond its limit a value is, in a word; nothing where it is not, or by less than a twentieth."""
    value, times = verdict.estimate.value, _times(verdict)
    if value is None or times < 1.05:
        return ""
    return (
        f"{times:.2g} times the limit"
        if verdict.direction == "max"
        else f"{number(verdict.limit - value)} below the limit"
    )


def _where(verdict: Verdict, report: Report) -> str:
    """The layers beyond the limit, or without a value; nothing for a metric without layers."""
    if verdict.estimate.layer is None:
        return ""
    missing = verdict.estimate.value is None
    layers = [
        one
        for found in report.comparisons
        if (found.candidate, found.prompt_set) == (verdict.candidate, verdict.prompt_set)
        for one in found.of(verdict.metric)
        if one.applicable and one.layer is not None
    ]
    met = [one.layer or 0 for one in layers if (one.value is None if missing else _beyond(one.value, verdict))]
    if met:
        what = "no value" if missing else "value beyond the limit"
        return f"{what} at {len(met)} of {counted(len(layers), 'layer')}: {_spans(met)}"
    return f"{'no value' if missing else 'worst'} at layer {verdict.estimate.layer}"


def _spans(layers: Sequence[int]) -> str:
    """Ascending numbers of layers, three and more in a row as first and last.

    >>> _spans([0, 2, 3, 4, 6, 7])
    '0, 2 to 4, 6, 7'
    """
    runs = [[pair[1] for pair in run] for _, run in groupby(enumerate(layers), lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


def _beyond(value: float | None, verdict: Verdict) -> bool:
    if value is None:
        return False
    return value > verdict.limit if verdict.direction == "max" else value < verdict.limit
