"""Summary of a run as Markdown, for a CI job."""

import re
from collections.abc import Iterable, Iterator, Sequence

from pytest_quantcheck.controls.certificate import ControlResult, conclusion
from pytest_quantcheck.errors import printable
from pytest_quantcheck.reporting.outcomes import CandidateOutcome, cautions, outcomes, sentence
from pytest_quantcheck.reporting.prompt_sets import evidence_sentences
from pytest_quantcheck.reporting.report import Report
from pytest_quantcheck.reporting.rows import Group, TableRow, groups, headings

_MARKUP = re.compile(r"[\\`*_\[\]<>&|~#@$]|:(?=\S)")
"""Characters that start markup, HTML, a mention, an emoji, a link or a formula on GitHub."""

_RULES = ("---", "---:", "---:", "---", "---", "---")
_CUT = "\n\nThis summary is cut short: there is no room for more.\n"


def markdown_lines(report: Report, remarks: Iterable[str] = ()) -> Iterator[str]:
    """Yield the terminal's summary as lines of Markdown, without line ends.

    `remarks`: sentences about the run.
    """
    yield from ("", f"## quantcheck: {escaped(report.model)}", "")
    for line in cautions(report):
        yield from (f"⚠️ **{escaped(line)}**", "")
    for outcome in outcomes(report):
        yield from _outcome(outcome)
    yield from _controls(report.controls)
    for line in evidence_sentences(report):
        yield from (escaped(line), "")
    for group in groups(report):
        yield from _table(group)
    yield from (f"- {escaped(remark)}" for remark in remarks)


def truncate_lines(lines: Iterable[str], room: int) -> str:
    """Join as many lines as fit into `room` bytes of UTF-8.

    A sentence at the end says when lines are left out. The text is empty if there is no room for that sentence.
    """
    ended = [f"{line}\n" for line in lines]
    if sum(len(line.encode()) for line in ended) <= room:
        return "".join(ended)
    kept, left = 0, room - len(_CUT)
    while (left := left - len(ended[kept].encode())) >= 0:
        kept += 1
    return "".join((*ended[:kept], _CUT)) if kept else ""


def escaped(text: str) -> str:
    r"""Write the text on one line, with Markdown's special characters escaped.

    >>> print(escaped("a|b\n<script> `c`"))
    a\|b \<script\> \`c\`
    """
    return _MARKUP.sub(r"\\\g<0>", printable(text))


def _outcome(outcome: CandidateOutcome) -> Iterator[str]:
    yield from (f"{'✅' if outcome.fit else '❌'} **{escaped(outcome.title)}**", "")
    yield from (f"- {escaped(objection)}" for objection in outcome.objections())
    yield from (f"- **next:** {escaped(step)}" for step in outcome.steps())
    yield from (f"- ⚠️ {escaped(sentence(verdict))}" for verdict in outcome.warnings)
    yield ""


def _controls(controls: Sequence[ControlResult]) -> Iterator[str]:
    if not controls:
        return
    failed = [result for result in controls if result.outcome == "failed"]
    yield from (f"{'❌' if failed else '✅'} **{escaped(conclusion(controls))}**", "")
    yield from (f"- {escaped(f'{result.control} on {result.prompt_set}: {result.reason}')}" for result in failed)
    yield ""


def _table(group: Group) -> Iterator[str]:
    rows = list(group.rows())
    yield from (f"### {escaped(group.title)}", "")
    yield from map(_row, (headings(rows), _RULES, *map(_cells, rows)))
    yield ""
    notes = [f"- {escaped(note)}" for note in group.notes()]
    yield from (*notes, "") if notes else ()


def _cells(row: TableRow) -> list[str]:
    *facts, word = map(escaped, row.cells)
    stands_out = row.verdict is not None and not row.verdict.acceptable
    return [*facts, f"**{word}**" if stands_out else word]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
