"""A run's report -> one HTML file that needs no network and no scripts."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from pytest_quantcheck.controls import CONTROLS
from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.prompts import PromptSet
from pytest_quantcheck.records import Estimate, Provenance, Verdict
from pytest_quantcheck.reporting.html.figures import Figure, group_figures, paper_figures
from pytest_quantcheck.reporting.html.flips import BUDGET, Flips, flips_of
from pytest_quantcheck.reporting.html.scales import MARGIN, WIDTH, Scale, scale_of
from pytest_quantcheck.reporting.html.texts import visible
from pytest_quantcheck.reporting.json_report import Report
from pytest_quantcheck.reporting.rows import Group, Row, groups
from pytest_quantcheck.reporting.wording import (
    MEANINGS,
    bound,
    concession,
    counted,
    headline,
    interval_name,
    next_step,
    number,
)

_OPTION = re.compile(r"(--quantcheck-[\w-]+(?:=[\w:,.@-]+)?)")
_HERE = Path(__file__).parent
_MARKS = {"passed": "✓", "failed": "✗", "inconclusive": "?", "unmeasured": "!"}
_URGENT = ("failed", "none", "passed")
_FOREMOST = 6  # findings against a candidate that are not folded


class Finding(NamedTuple):
    """A verdict that stands against a candidate, or lets it pass with a word: what, how much, where, what to do."""

    sentence: str
    status: str
    meaning: str
    beyond: str
    amount: str
    where: str
    advice: str
    section: str


class Outcome(NamedTuple):
    """What a run says of one candidate."""

    candidate: str
    status: str
    sentence: str
    against: tuple[Finding, ...]
    warnings: tuple[Finding, ...]


class Line(NamedTuple):
    """One metric as a row of a section's table."""

    title: str
    meaning: str
    layer: str
    scale: Scale | None
    reason: str
    value: str
    interval: str
    limit: str
    word: str
    mark: str
    tone: str


class Section(NamedTuple):
    """One candidate on one prompt set."""

    name: str
    candidate: str
    prompt_set: str
    n_prompts: int
    interval: str
    lines: tuple[Line, ...]
    notes: tuple[str, ...]
    figures: tuple[Figure, ...]
    flips: Flips | None


class Origins(NamedTuple):
    """Where the measurements on one prompt set come from: a row for each fact, marked where the models differ."""

    prompt_set: str
    models: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...], bool], ...]


def html_report(report: Report, prompts: Mapping[str, PromptSet]) -> bytes:
    """The report as one HTML file in UTF-8: the same bytes for the same records.

    Args:
        report: what `report.json` holds.
        prompts: the prompt sets by name, for the texts of prompts that flipped; one that is missing costs only those.
    """
    found = list(groups(report.verdicts, report.comparisons))
    named = {(group.candidate, group.prompt_set): f"s{place}" for place, group in enumerate(found, 1)}
    outcomes = tuple(sorted(_outcomes(report, named), key=lambda outcome: _URGENT.index(outcome.status)))
    page = _environment().from_string((_HERE / "report.html.jinja").read_text(encoding="utf-8"))
    text = page.render(
        report=report,
        style=Markup((_HERE / "style.css").read_text(encoding="utf-8")),  # noqa: S704 - ours
        headline=_headline(report, outcomes),
        unopposed=_unopposed(outcomes),
        outcomes=outcomes,
        sections=[_section(group, named[group.candidate, group.prompt_set], prompts, len(found)) for group in found],
        paper=[(prompt_set, figures) for prompt_set, figures in _paper(found) if figures],
        origins=tuple(_origins(report)),
        controls=CONTROLS,
        metrics=METRICS,
        foremost=_FOREMOST,
        width=WIDTH,
        margin=MARGIN,
    )
    return text.encode("utf-8", "backslashreplace")


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "visible": visible,
        "number": number,
        "counted": counted,
        "plain": _plain,
        "options": _options,
    }
    return environment


def _headline(report: Report, outcomes: Sequence[Outcome]) -> str:
    bad = [outcome.candidate for outcome in outcomes if outcome.against]
    if bad:
        return f"Not fit for release: {', '.join(bad)}"
    if report.certificate and report.certificate.outcome == "failed":
        return "The gate failed its controls, and no verdict stands against a candidate"
    if report.outcome == "failed":
        return "The run failed, and no verdict stands against a candidate: see its output"
    return f"Nothing against a release of {', '.join(_good(outcomes))}"


def _unopposed(outcomes: Sequence[Outcome]) -> str:
    """What could be released in place of those that failed."""
    good = ", ".join(_good(outcomes))
    return f"No verdict stands against {good}." if good and len(_good(outcomes)) < len(outcomes) else ""


def _good(outcomes: Sequence[Outcome]) -> list[str]:
    return [outcome.candidate for outcome in outcomes if outcome.status == "passed"]


def _outcomes(report: Report, named: Mapping[tuple[str, str], str]) -> Iterator[Outcome]:
    asked = report.settings.get("bits", ())
    judged: dict[str, list[Verdict]] = {str(candidate): [] for candidate in asked}
    for verdict in report.verdicts:
        judged.setdefault(verdict.candidate, []).append(verdict)
    for candidate, verdicts in judged.items():
        against = [verdict for verdict in verdicts if not verdict.acceptable]
        doubts = [verdict for verdict in verdicts if verdict.acceptable and verdict.status != "passed"]
        yield Outcome(
            candidate=visible(candidate),
            status="failed" if against else "passed" if verdicts else "none",
            sentence=_sentence(len(against), len(verdicts)),
            against=tuple(_finding(verdict, report, named) for verdict in sorted(against, key=_order)),
            warnings=tuple(_finding(verdict, report, named) for verdict in doubts),
        )


def _sentence(against: int, all_of_them: int) -> str:
    if not all_of_them:
        return "no verdict in this run: its output says why"
    verdicts = "verdict" if all_of_them == 1 else "verdicts"
    return (
        f"{against} of {all_of_them} {verdicts} against it"
        if against
        else f"nothing against it in {all_of_them} {verdicts}"
    )


def _order(verdict: Verdict) -> tuple[int, float]:
    """Failed ones first, and of those the furthest beyond their limit."""
    return list(_MARKS).index(verdict.status), -_times(verdict)


def _times(verdict: Verdict) -> float:
    """How many times the limit the value is, or the limit the value; 0 where that is not defined."""
    value, limit = verdict.estimate.value, verdict.limit
    if value is None or min(value, limit) <= 0:
        return 0.0
    return value / limit if verdict.direction == "max" else limit / value


def _finding(verdict: Verdict, report: Report, named: Mapping[tuple[str, str], str]) -> Finding:
    return Finding(
        sentence=headline(verdict),
        status=verdict.status,
        meaning=MEANINGS[verdict.metric],
        beyond=_beyond_by(verdict),
        amount=_amount(verdict),
        where=_where(verdict, report),
        advice="; ".join(filter(None, (concession(verdict), next_step(verdict)))),
        section=named[verdict.candidate, verdict.prompt_set],
    )


def _amount(verdict: Verdict) -> str:
    found = verdict.estimate
    if found.value is None:
        return f"no value: {found.reason or 'it was not measured'}; limit {bound(verdict)}"
    unit = METRICS[verdict.metric].unit
    facts = [f"{number(found.value)} {unit}".rstrip(), f"limit {bound(verdict)}", _named_interval(found)]
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


def _section(group: Group, name: str, prompts: Mapping[str, PromptSet], n_groups: int) -> Section:
    rows = list(group.rows())
    found = group.comparison
    levels = {row.estimate.confidence for row in rows if row.estimate.low is not None}
    return Section(
        name=name,
        candidate=visible(group.candidate),
        prompt_set=visible(group.prompt_set),
        n_prompts=group.n_prompts,
        interval=interval_name(levels.pop()) if len(levels) == 1 else "interval",
        lines=tuple(map(_line, rows)),
        notes=tuple(visible(note) for note in group.notes()),
        figures=tuple(group_figures(group, name)),
        flips=flips_of(found.flips, prompts.get(group.prompt_set), budget=BUDGET // n_groups) if found else None,
    )


def _line(row: Row) -> Line:
    found, verdict = row.estimate, row.verdict
    return Line(
        title=row.metric.title,
        meaning=MEANINGS[row.metric.name],
        layer="" if found.layer is None else str(found.layer),
        scale=scale_of(found, verdict),
        value="-" if found.value is None else f"{number(found.value)} {row.metric.unit}".rstrip(),
        interval="-" if found.value is None else _interval(found),
        reason=found.reason,
        limit=f"{'≤' if verdict.direction == 'max' else '≥'} {number(verdict.limit)}" if verdict else "-",
        word=row.word,
        mark=_MARKS.get(verdict.status, "") if verdict else "",
        tone=_tone(verdict),
    )


def _tone(verdict: Verdict | None) -> str:
    if verdict is None:
        return "none"
    return "good" if verdict.status == "passed" else "doubt" if verdict.acceptable else "bad"


def _named_interval(found: Estimate) -> str:
    return f"{interval_name(found.confidence)} {_interval(found)}" if found.low is not None else _interval(found)


def _interval(found: Estimate) -> str:
    if found.low is None or found.high is None:
        return "no interval"
    return f"{number(found.low)} to {number(found.high)}"


def _paper(found: Sequence[Group]) -> Iterator[tuple[str, tuple[Figure, ...]]]:
    """Yield each prompt set with the paper's Figures 1 to 3."""
    for place, prompt_set in enumerate(dict.fromkeys(group.prompt_set for group in found)):
        figures = paper_figures([group for group in found if group.prompt_set == prompt_set], f"p{place}")
        yield visible(prompt_set), tuple(figures)


def _origins(report: Report) -> Iterator[Origins]:
    for prompt_set in dict.fromkeys(found.prompt_set for found in report.comparisons):
        own = [found for found in report.comparisons if found.prompt_set == prompt_set]
        models = {"reference": own[0].reference_provenance} | {one.candidate: one.candidate_provenance for one in own}
        yield Origins(visible(prompt_set), tuple(map(visible, models)), tuple(_facts(list(models.values()))))


def _facts(models: Sequence[Provenance]) -> Iterator[tuple[str, tuple[str, ...], bool]]:
    for name in Provenance.__struct_fields__:
        values = tuple(_plain(getattr(model, name)) for model in models)
        same = len(set(values)) == 1
        yield name.replace("_", " "), values[:1] if same else values, not same


def _options(text: str) -> Markup:
    """A sentence in which command-line options stand out, and are not broken over two lines."""
    parts = _OPTION.split(text)
    return Markup().join(
        Markup("<code>{}</code>").format(part) if place % 2 else part for place, part in enumerate(parts)
    )


def _plain(value: Any) -> str:
    """A setting or a fact of a provenance in words."""
    if value is None or value in ((), "", [], {}):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{visible(str(key))}: {_plain(item)}" for key, item in sorted(value.items()))
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return visible(str(value))
