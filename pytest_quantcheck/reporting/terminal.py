"""Summary at the end of a run: objections to each candidate, then tables of metrics."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence

from pytest_quantcheck.errors import printable
from pytest_quantcheck.records import Verdict
from pytest_quantcheck.reporting.outcomes import CandidateOutcome, cautions, outcomes, sentence
from pytest_quantcheck.reporting.prompt_sets import evidence_sentences
from pytest_quantcheck.reporting.report import Report
from pytest_quantcheck.reporting.rows import Group, TableRow, groups, headings
from pytest_quantcheck.reporting.wording import ascii_only

Line = tuple[str, Mapping[str, bool]]
"""A line of text without its end, and markup for pytest's terminal writer; ASCII, except paths in remarks."""

_PLAIN: Mapping[str, bool] = {}
_BOLD = {"bold": True}
_GOOD = {"green": True}
_WARNING = {"yellow": True}
_BAD = {"red": True}

WIDEST = 100
"""Most columns of a summary: longer lines are hard to read."""

_LONGEST_WORD = 60
"""Characters of the longest word that is not broken."""

_RIGHT = {1, 2}
"""Columns that are aligned on the right: layer and value."""


def summary_lines(report: Report, *, brief: bool = False, width: int = 80, verbosity: int = 0) -> Iterator[Line]:
    """Yield the summary of a run, line by line.

    First comes which tests were not run, and what the reference's answers to a prompt set cannot show, then each
    candidate's outcome, candidates that are not fit for release before the others, with a sentence for each objection
    and what to do. Then comes a line for each prompt set, with what it can show, and a table for each candidate and
    prompt set, with one row for each metric at its worst layer, and notes.

    Args:
        report: all results of the run.
        brief: name objections without their sentences, which the output has above.
        width: columns to which sentences are wrapped; a wider table, of at most 80 columns, becomes a list.
        verbosity: as in pytest; below -1 only the outcomes, above 0 a row for each layer.
    """
    for line in cautions(report):
        yield from wrapped(line, width, _BAD)
    for outcome in outcomes(report):
        yield from _outcome(outcome, width, brief=brief)
    if verbosity < -1:
        return
    for line in evidence_sentences(report):
        yield from wrapped(line, width, _PLAIN)
    for group in groups(report):
        yield "", _PLAIN
        yield from _table(group, width, layers=verbosity > 0)
        for note in group.notes():
            yield from wrapped(f"- {note}", width, _PLAIN)


def remark_lines(remark: str, *, width: int = 80) -> Iterator[Line]:
    """Yield a sentence about the run, wrapped; paths in it are not broken."""
    for line in textwrap.wrap(printable(remark), width, break_long_words=False, break_on_hyphens=False):
        yield line, _PLAIN


def _outcome(outcome: CandidateOutcome, width: int, *, brief: bool) -> Iterator[Line]:
    yield from wrapped(outcome.title, width, _GOOD if outcome.fit else _BAD)
    for objection in outcome.objections_by_name() if brief else outcome.objections():
        yield from wrapped(f"- {objection}", width, _PLAIN)
    for step in outcome.steps():
        yield from wrapped(f"- next: {step}", width, _BOLD)
    for verdict in outcome.warnings:
        yield from wrapped(f"- {sentence(verdict)}", width, _WARNING)


def _table(group: Group, width: int, *, layers: bool) -> Iterator[Line]:
    rows = list(group.rows(layers=layers))
    head = headings(rows)
    body = [row.cells for row in rows]
    sizes = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    spare = width - sum(sizes)
    gap = "  " if spare >= 2 * (len(sizes) - 1) else " "
    yield from wrapped(group.title, width, _BOLD)
    if spare < len(sizes) - 1:
        yield from _list(rows, width)
        return
    yield _aligned_cells(head, sizes, gap), _PLAIN
    for row, texts in zip(rows, body, strict=True):
        yield _aligned_cells(texts, sizes, gap), _colour(row.verdict)


def _list(rows: Sequence[TableRow], width: int) -> Iterator[Line]:
    """Yield the metrics as a list, where a table is too wide."""
    for row in rows:
        title, layer, value, interval, limit, word = row.cells
        where = f"{title} at layer {layer}" if layer else title
        facts = value if interval == "-" else f"{value} ({interval})"
        outcome = ", ".join(fact for fact in (word, facts, limit) if fact not in ("", "-"))
        yield from wrapped(f"  {where}: {outcome}", width, _colour(row.verdict))


def _aligned_cells(cells: Sequence[str], sizes: Sequence[int], gap: str) -> str:
    padded = (
        cell.rjust(size) if place in _RIGHT else cell.ljust(size)
        for place, (cell, size) in enumerate(zip(cells, sizes, strict=True))
    )
    return gap.join(padded).rstrip()


def _colour(verdict: Verdict | None) -> Mapping[str, bool]:
    if verdict is None or verdict.status == "passed":
        return _PLAIN
    return _WARNING if verdict.acceptable else _BAD


def wrapped(text: str, width: int, markup: Mapping[str, bool]) -> Iterator[Line]:
    """Yield the text as ASCII lines that fit; text after a dash or blanks is indented.

    On a narrow terminal, an option longer than a line is not broken, so that it can be copied.
    """
    text, indent = ascii_only(text), {"- ": "  ", "  ": "    "}.get(text[:2], "")
    endless = any(len(word) > _LONGEST_WORD for word in text.split())
    wrapper = textwrap.TextWrapper(
        width, subsequent_indent=indent, break_on_hyphens=False, break_long_words=endless or width > _LONGEST_WORD
    )
    for line in wrapper.wrap(text):
        yield line, markup
