"""The summary at the end of a run: what stands against a candidate, then every metric in a table."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence

from pytest_quantcheck.records import Comparison, Verdict
from pytest_quantcheck.reporting.rows import Group, Row, groups
from pytest_quantcheck.reporting.wording import (
    SMALLEST,
    ascii_only,
    bound,
    concession,
    headline,
    interval_name,
    number,
)

Line = tuple[str, Mapping[str, bool]]
"""A line of ASCII text without its end, and the markup for pytest's terminal writer."""

_PLAIN: Mapping[str, bool] = {}
_BOLD = {"bold": True}
_GOOD = {"green": True}
_WARNING = {"yellow": True}
_BAD = {"red": True}

_SIGNS = {"max": "<=", "min": ">="}
_RIGHT = {1, 2}
"""The columns of numbers that stand alone: layer and value."""


def summary_lines(verdicts: Iterable[Verdict], comparisons: Iterable[Comparison], *, width: int = 80) -> Iterator[Line]:
    """Yield the summary of a run, line by line; nothing when there is nothing to tell.

    First each candidate's outcome with a sentence for everything that stands against it, then a table for each
    candidate and prompt set with one row per metric, at its worst layer, and notes. Sentences are wrapped to
    `width`; a table needs at most 80 columns.
    """
    verdicts = tuple(verdicts)
    for candidate in dict.fromkeys(verdict.candidate for verdict in verdicts):
        yield from _outcome([verdict for verdict in verdicts if verdict.candidate == candidate], width)
    for group in groups(verdicts, tuple(comparisons)):
        yield "", _PLAIN
        yield from _table(group, width)
        for note in group.notes():
            yield from _wrapped(f"- {note}", width, _PLAIN)


def _outcome(verdicts: Sequence[Verdict], width: int) -> Iterator[Line]:
    against = [verdict for verdict in verdicts if not verdict.acceptable]
    warnings = [verdict for verdict in verdicts if verdict.acceptable and verdict.warning]
    candidate, count = verdicts[0].candidate, _count(len(verdicts), "verdict")
    if against:
        yield from _wrapped(f"{candidate} is not fit for release: {len(against)} of {count} against it", width, _BAD)
    else:
        yield from _wrapped(f"{candidate}: nothing against it in {count}", width, _GOOD)
    for verdict in (*against, *warnings):
        yield from _wrapped(f"- {_sentence(verdict)}", width, _WARNING if verdict.acceptable else _PLAIN)


def _sentence(verdict: Verdict) -> str:
    value = verdict.estimate.value
    why = verdict.estimate.reason if value is None else f"{number(value)}, limit {bound(verdict)}"
    fact = ": ".join(filter(None, (headline(verdict), why)))
    return "; ".join(filter(None, (fact, concession(verdict))))


def _table(group: Group, width: int) -> Iterator[Line]:
    rows = list(group.rows())
    head = ("metric", "layer", "value", _interval_head(rows), "limit", "verdict")
    body = [_cells(row) for row in rows]
    sizes = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    gap = "  " if sum(sizes) + 2 * (len(sizes) - 1) <= width else " "
    title = f"{group.candidate} on {group.prompt_set}: {_count(group.n_prompts, 'prompt')}"
    yield from _wrapped(title, width, _BOLD)
    yield _aligned(head, sizes, gap), _PLAIN
    for row, cells in zip(rows, body, strict=True):
        yield _aligned(cells, sizes, gap), _colour(row.verdict)


def _cells(row: Row) -> tuple[str, ...]:
    found, verdict = row.estimate, row.verdict
    layer = "" if found.layer is None else str(found.layer)
    interval = "-" if found.low is None or found.high is None else f"{_cell(found.low)} to {_cell(found.high)}"
    limit = f"{_SIGNS[verdict.direction]} {verdict.limit:.4g}" if verdict else "-"
    return (row.metric.title, layer, _cell(found.value), interval, limit, row.word)


def _cell(value: float | None) -> str:
    """A number with four decimals, so that columns align; the message of a verdict has more digits."""
    if value is None:
        return "-"
    if 0 < value < SMALLEST:
        return number(value)
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.4g}"


def _interval_head(rows: Sequence[Row]) -> str:
    names = {interval_name(row.estimate.confidence) for row in rows if row.estimate.low is not None}
    return names.pop() if len(names) == 1 else "interval"


def _aligned(cells: Sequence[str], sizes: Sequence[int], gap: str) -> str:
    padded = (
        cell.rjust(size) if place in _RIGHT else cell.ljust(size)
        for place, (cell, size) in enumerate(zip(cells, sizes, strict=True))
    )
    return gap.join(padded).rstrip()


def _colour(verdict: Verdict | None) -> Mapping[str, bool]:
    if verdict is None or verdict.status == "passed":
        return _PLAIN
    return _WARNING if verdict.acceptable else _BAD


def _wrapped(text: str, width: int, markup: Mapping[str, bool]) -> Iterator[Line]:
    """Yield the text as ASCII in lines that fit; what follows a dash is indented below it."""
    indent = "  " if text.startswith("- ") else ""
    for line in textwrap.wrap(ascii_only(text), width, subsequent_indent=indent, break_on_hyphens=False):
        yield line, markup


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
