"""What the controls of a run showed, in words: a line for each, and one sentence."""

import textwrap
from collections.abc import Iterator, Sequence

from pytest_quantcheck.controls.catalogue import CONTROLS
from pytest_quantcheck.controls.certificate import ControlResult, conclusion, titles
from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.plurals import counted
from pytest_quantcheck.records import Verdict
from pytest_quantcheck.reporting.terminal import Line, wrapped
from pytest_quantcheck.reporting.wording import (
    ascii_only,
    bound,
    fact_lines,
    failure_message,
    number,
    printable,
)

_DUTIES = {"null": "must pass", "rewrite": "must pass", "defect": "must be caught"}
_LET_OUT = "this gate would let such a model out: measure more prompts, or set tighter limits"
_FALSE_ALARM = "this gate fails where nothing is wrong: measure more prompts, or set wider limits"

_FEWEST, _ENDLESS = 40, 100_000
"""Characters below which an outcome says too little to be cut; more than any has."""


def control_lines(results: Sequence[ControlResult], *, width: int = 80) -> Iterator[Line]:
    """Yield each control in a line, or wrapped where there is no room, and the conclusion; nothing without controls."""
    if not results:
        return
    for prompt_set in dict.fromkeys(result.prompt_set for result in results):
        yield "", {}
        yield from wrapped(f"controls on {prompt_set}", width, {"bold": True})
        for result in results:
            if result.prompt_set == prompt_set:
                yield from _lines(result, width)
    failed = any(result.outcome == "failed" for result in results)
    yield from wrapped(conclusion(results), width, {"red": True} if failed else {"green": True})


def control_message(result: ControlResult) -> str:
    """All that the reader of a failed control needs: a sentence, what was done, and the verdicts behind it."""
    defect = result.kind == "defect"
    facts = {
        "control": CONTROLS[result.control].summary,
        "done": result.done,
        "next": _LET_OUT if defect else _FALSE_ALARM,
    }
    behind = [verdict for verdict in result.verdicts if defect or verdict.metric in result.seen_by]
    return "\n".join(
        (
            printable(f"{result.control} on {result.prompt_set} {_DUTIES[result.kind]}: {result.reason}"),
            *fact_lines(facts),
            *(_value(verdict) if defect else _alarm(verdict) for verdict in behind),
        )
    )


def _lines(result: ControlResult, width: int) -> Iterator[Line]:
    start = f"{result.kind:<7} {result.control:<{max(map(len, CONTROLS))}}  "
    room = width - len(start)
    if room < _FEWEST:
        yield from wrapped(f"- {result.kind} {result.control}: {_outcome(result, _ENDLESS)}", width, _colour(result))
    else:
        yield start + _outcome(result, room), _colour(result)


def _outcome(result: ControlResult, width: int) -> str:
    if result.outcome == "not applicable":
        return _shortened(f"not applicable: {result.reason}", width)
    if result.seen_by:
        return _listed("seen by" if result.outcome == "passed" else "FAILED:", result.seen_by, width)
    return "passed" if result.outcome == "passed" else _shortened(f"FAILED: {result.reason}", width)


def _listed(word: str, metrics: Sequence[str], width: int) -> str:
    """As many of the metrics as there is room for, and the number of the others."""
    for shown in range(len(metrics), 0, -1):
        left = len(metrics) - shown
        text = f"{word} {titles(metrics[:shown])}{f' and {left} more' if left else ''}"
        if len(text) <= width:
            return text
    return f"{word} {counted(len(metrics), 'metric')}"


def _shortened(text: str, width: int) -> str:
    return textwrap.shorten(ascii_only(text), width, placeholder=" ...")


def _colour(result: ControlResult) -> dict[str, bool]:
    return {"failed": {"red": True}, "not applicable": {"yellow": True}}.get(result.outcome, {})


def _alarm(verdict: Verdict) -> str:
    """The verdict's own text; what a failed candidate should do is no advice for a model without damage."""
    text = failure_message(verdict)
    return text.partition("\n  next ")[0] if verdict.status == "failed" else text


def _value(verdict: Verdict) -> str:
    value, title = verdict.estimate.value, METRICS[verdict.metric].title
    return f"  {title}: {'none' if value is None else number(value)}, limit {bound(verdict)}, {verdict.status}"
