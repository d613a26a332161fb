"""Report of a run as one HTML file, without network or scripts."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from pytest_quantcheck.controls.catalogue import CONTROLS
from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.prompts import PromptSet
from pytest_quantcheck.records import Provenance, Verdict
from pytest_quantcheck.reporting.html.candidates import MARKS, findings_of, release_headline, unopposed
from pytest_quantcheck.reporting.html.figures import Figure, group_figures, paper_figures
from pytest_quantcheck.reporting.html.flips import BUDGET, Flips, flips_of
from pytest_quantcheck.reporting.html.scales import MARGIN, WIDTH, Scale, scale_of
from pytest_quantcheck.reporting.html.texts import visible
from pytest_quantcheck.reporting.html.worst_passages import WrittenTokens, written_tokens
from pytest_quantcheck.reporting.outcomes import cautions
from pytest_quantcheck.reporting.prompt_sets import evidence_sentences
from pytest_quantcheck.reporting.report import Report
from pytest_quantcheck.reporting.rows import Group, TableRow, groups
from pytest_quantcheck.reporting.wording import (
    interval_name,
    number,
    value_text,
)
from pytest_quantcheck.text import counted

_OPTION = re.compile(r"(--quantcheck-[\w-]+(?:=[\w:,.@-]+)?)")
_HERE = Path(__file__).parent
_FOREMOST = 6  # findings against a candidate that are shown unfolded


class MetricLine(NamedTuple):
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
    lines: tuple[MetricLine, ...]
    notes: tuple[str, ...]
    figures: tuple[Figure, ...]
    written: WrittenTokens | None
    flips: Flips | None


class Origins(NamedTuple):
    """Origin of the measurements on one prompt set: one row for each fact of the models.

    A row is the name, the values, and whether the models differ.
    """

    prompt_set: str
    models: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...], bool], ...]


def html_report(report: Report, prompts: Mapping[str, PromptSet]) -> bytes:
    """Render the report as one HTML file in UTF-8: same records, same bytes.

    Args:
        report: the content of `report.json`.
        prompts: the prompt sets by name, for the texts of flipped prompts; the texts of a missing set are left out.
    """
    all_groups = list(groups(report))
    named = {(group.candidate, group.prompt_set): f"s{place}" for place, group in enumerate(all_groups, 1)}
    findings = findings_of(report, named)
    page = _environment().from_string((_HERE / "report.html.jinja").read_text(encoding="utf-8"))
    text = page.render(
        report=report,
        style=Markup((_HERE / "style.css").read_text(encoding="utf-8")),  # noqa: S704 - ours
        headline=release_headline(report, findings),
        unopposed=unopposed(findings),
        cautions=[visible(line) for line in cautions(report)],
        prompt_sets=[visible(line) for line in evidence_sentences(report)],
        candidates=findings,
        sections=[
            _section(group, named[group.candidate, group.prompt_set], prompts, len(all_groups)) for group in all_groups
        ],
        paper=[(prompt_set, figures) for prompt_set, figures in _paper(all_groups) if figures],
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
        "plain": _as_text,
        "options": _options,
    }
    return environment


def _section(group: Group, name: str, prompts: Mapping[str, PromptSet], n_groups: int) -> Section:
    rows = list(group.rows())
    comparison = group.comparison
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
        written=written_tokens(comparison.token_divergence, prompts.get(group.prompt_set))
        if comparison and comparison.token_divergence
        else None,
        flips=flips_of(comparison.flips, prompts.get(group.prompt_set), budget=BUDGET // n_groups)
        if comparison
        else None,
    )


def _line(row: TableRow) -> MetricLine:
    estimate, verdict = row.estimate, row.verdict
    return MetricLine(
        title=row.metric.title,
        meaning=row.metric.meaning,
        layer="" if estimate.layer is None else str(estimate.layer),
        scale=scale_of(estimate, verdict),
        value="-" if estimate.value is None else value_text(estimate),
        interval="-"
        if estimate.low is None or estimate.high is None
        else f"{number(estimate.low)} to {number(estimate.high)}",
        reason=estimate.reason,
        limit=f"{'≤' if verdict.direction == 'max' else '≥'} {number(verdict.limit)}" if verdict else "-",
        word=row.word,
        mark=MARKS.get(verdict.status, "") if verdict else "",
        tone=_tone(verdict),
    )


def _tone(verdict: Verdict | None) -> str:
    if verdict is None:
        return "none"
    return "good" if verdict.status == "passed" else "doubt" if verdict.acceptable else "bad"


def _paper(all_groups: Sequence[Group]) -> Iterator[tuple[str, tuple[Figure, ...]]]:
    """Yield each prompt set with the paper's Figures 1 to 3."""
    for place, prompt_set in enumerate(dict.fromkeys(group.prompt_set for group in all_groups)):
        figures = paper_figures([group for group in all_groups if group.prompt_set == prompt_set], f"p{place}")
        yield visible(prompt_set), tuple(figures)


def _origins(report: Report) -> Iterator[Origins]:
    for prompt_set in dict.fromkeys(comparison.prompt_set for comparison in report.comparisons):
        own = [comparison for comparison in report.comparisons if comparison.prompt_set == prompt_set]
        models = {"reference": own[0].reference_provenance} | {
            comparison.candidate: comparison.candidate_provenance for comparison in own
        }
        yield Origins(visible(prompt_set), tuple(map(visible, models)), tuple(_provenance_rows(list(models.values()))))


def _provenance_rows(models: Sequence[Provenance]) -> Iterator[tuple[str, tuple[str, ...], bool]]:
    for name in Provenance.__struct_fields__:
        values = tuple(_as_text(getattr(model, name)) for model in models)
        same = len(set(values)) == 1
        yield name.replace("_", " "), values[:1] if same else values, not same


def _options(text: str) -> Markup:
    """Mark up a sentence: options are code and are not broken over two lines."""
    parts = _OPTION.split(text)
    return Markup().join(
        Markup("<code>{}</code>").format(part) if place % 2 else part for place, part in enumerate(parts)
    )


def _as_text(value: Any) -> str:
    """Write a setting or a fact of a provenance as text."""
    if value is None or value in ((), "", [], {}):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{visible(str(key))}: {_as_text(item)}" for key, item in sorted(value.items()))
    if isinstance(value, list | tuple):
        return ", ".join(map(_as_text, value))
    return visible(str(value))
