"""Results of controls in words: a line for each control, and one sentence."""

import textwrap
from collections.abc import Iterator, Sequence

from pytest_quantcheck.controls.catalogue import CONTROLS
from pytest_quantcheck.controls.certificate import ControlResult, conclusion, titles
from pytest_quantcheck.errors import printable
from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.records import Verdict
from pytest_quantcheck.reporting.terminal import Line, wrapped
from pytest_quantcheck.reporting.wording import (
    ascii_only,
    bound,
    fact_lines,
    failure_message,
    number,
)
from pytest_quantcheck.text import counted

_DUTIES = {"null": "must pass", "rewrite": "must pass", "defect": "must be caught"}
_MISSED = "this gate would release such a model: measure more prompts, or set tighter limits"
_FALSE_ALARM = "this gate fails a model that is not damaged: measure more prompts, or set wider limits"

_FEWEST, _ENDLESS = 40, 100_000
"""Fewest characters to which an outcome is shortened; more characters than any outcome has."""


def control_lines(results: Sequence[ControlResult], *, width: int = 80) -> Iterator[Line]:
    """Yield a line for each control, wrapped if needed, then the conclusion."""
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
    """Describe a failed control: a sentence, what was done, and the verdicts behind it."""
    defect = result.kind == "defect"
    facts = {
        "control": CONTROLS[result.control].summary,
        "done": result.done,
        "next": _MISSED if defect else _FALSE_ALARM,
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
        return _fitted(f"not applicable: {result.reason}", width)
    if result.seen_by:
        return _listed("seen by" if result.outcome == "passed" else "FAILED:", result.seen_by, width)
    return "passed" if result.outcome == "passed" else _fitted(f"FAILED: {result.reason}", width)


def _listed(word: str, metrics: Sequence[str], width: int) -> str:
    """List as many metrics as fit, and count the others."""
    for shown in range(len(metrics), 0, -1):
        left = len(metrics) - shown
        text = f"{word} {titles(metrics[:shown])}{f' and {left} more' if left else ''}"
        if len(text) <= width:
            return text
    return f"{word} {counted(len(metrics), 'metric')}"


def _fitted(text: str, width: int) -> str:
    return textwrap.shorten(ascii_only(text), width, placeholder=" ...")


def _colour(result: ControlResult) -> dict[str, bool]:
    return {"failed": {"red": True}, "not applicable": {"yellow": True}}.get(result.outcome, {})


def _alarm(verdict: Verdict) -> str:
    """Write the verdict's message, without its advice for a failed candidate."""
    text = failure_message(verdict)
    return text.partition("\n  next ")[0] if verdict.status == "failed" else text


def _value(verdict: Verdict) -> str:
    value, title = verdict.estimate.value, METRICS[verdict.metric].title
    return f"  {title}: {'none' if value is None else number(value)}, limit {bound(verdict)}, {verdict.status}"
