"""Words for verdicts: one sentence, then the facts."""

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from pytest_quantcheck.errors import printable
from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.records import Estimate, Verdict
from pytest_quantcheck.text import counted

SMALLEST = 1e-4
"""Smallest number that is written out; smaller ones are shown as below it."""

_STEPS = {
    "failed": "release a higher bit-width; or, if the change is acceptable, say so: --quantcheck-fail={}:LIMIT",
    "unmeasured": "remove the cause; or let this metric pass unmeasured: --quantcheck-allow-unmeasured={}",
}
"""What to do about a verdict, by its status; the gap is for the metric's name."""

_OWN_LIMIT = "limit="
_OWN_STEP = "release a higher bit-width; or, if the change is acceptable, say so: give the assertion another limit="
"""What to do where a user's assertion gives the limit, which no option changes."""

BOUNDS = {"max": "at most", "min": "at least"}
"""Words for what a limit asks for, by its direction."""

_KEY_WIDTH = 13


def number(value: float) -> str:
    """Format a finite number: four significant digits, below 1 four decimals.

    >>> number(0.0731), number(0.00123456), number(12.3456), number(0.00003), number(0.0)
    ('0.0731', '0.001235', '12.35', '<0.0001', '0.0000')
    """
    size = abs(value)
    if 0 < size < SMALLEST:
        return f"<{SMALLEST}" if value > 0 else f">-{SMALLEST}"
    if size >= 1e4:
        return f"{value:.4g}"
    decimals = 3 - math.floor(math.log10(size)) if size else 4
    text = f"{value:.{max(decimals, 0)}f}"
    integer, _, fraction = text.partition(".")
    return f"{integer}.{fraction[:4]}{fraction[4:].rstrip('0')}" if fraction else integer


def bound(verdict: Verdict) -> str:
    """Write a limit and its direction, such as `at most 0.0500`."""
    tiny = 0 < verdict.limit < SMALLEST
    return f"{BOUNDS[verdict.direction]} {f'{verdict.limit:.4g}' if tiny else number(verdict.limit)}"


def interval_name(confidence: float) -> str:
    """Name an interval, such as `95 % interval`."""
    return f"{100 * confidence:.4g} % interval"


def value_text(estimate: Estimate) -> str:
    """Write a value with its unit: `0.0731`, `0.1200 nats`, or `none`."""
    if estimate.value is None:
        return "none"
    return f"{number(estimate.value)} {METRICS[estimate.metric].unit}".rstrip()


def interval_text(estimate: Estimate) -> str:
    """Write an interval with its name: `95 % interval 0.0512 to 0.0960`."""
    if estimate.low is None or estimate.high is None:
        return "no interval"
    return f"{interval_name(estimate.confidence)} {number(estimate.low)} to {number(estimate.high)}"


def ascii_only(text: str) -> str:
    """Write the printable text, with every character outside ASCII as an escape."""
    return printable(text).encode("ascii", "backslashreplace").decode()


def headline(verdict: Verdict) -> str:
    """Say metric, candidate, place and outcome: one sentence without its full stop."""
    estimate = verdict.estimate
    place = "" if estimate.layer is None else f" at layer {estimate.layer}"
    subject = f"{METRICS[verdict.metric].title} of {verdict.candidate} on {verdict.prompt_set}{place}"
    sentences = {
        "passed": f"{subject} is within its limit",
        "failed": f"{subject} is {METRICS[verdict.metric].failing_side} its limit",
        "inconclusive": f"{estimate.n_prompts:,} prompts are too few to say whether {subject} is within its limit",
        "unmeasured": f"{subject} could not be measured",
    }
    return printable(sentences[verdict.status])


def reason_to_accept(verdict: Verdict) -> str:
    """Say why a verdict that did not pass is acceptable.

    The text is empty for other verdicts.
    """
    if not verdict.warning:
        return ""
    return (
        "it passes, as this metric may be unmeasured" if verdict.status == "unmeasured" else "it passes with a warning"
    )


def nothing_judged(candidate: str, prompt_set: str, profile: str) -> str:
    """Say of what nothing was judged, and what to do."""
    return printable(
        f"nothing was judged of {candidate} on {prompt_set}: no selected test reached a verdict by {profile}; measure "
        "more prompts (--quantcheck-samples), select more tests, or choose a profile with limits for this case"
    )


def failure_message(verdict: Verdict) -> str:
    """Write a verdict's message: one sentence, then one line for each fact.

    The sentence is one line, which pytest repeats in its short summary. The facts are wrapped to 79 characters.
    """
    return "\n".join((headline(verdict), *fact_lines(_facts(verdict))))


def fact_lines(facts: Mapping[str, str]) -> Iterator[str]:
    """Yield each fact that is not empty, wrapped to 79 characters."""
    for key, fact in facts.items():
        start = f"  {key:<{_KEY_WIDTH - 2}}"
        yield from textwrap.wrap(
            printable(fact),
            width=79,
            initial_indent=start,
            subsequent_indent=" " * _KEY_WIDTH,
            break_long_words=False,
            break_on_hyphens=False,
        )


def next_step(verdict: Verdict) -> str:
    """Say what to do about a verdict; empty for one that passed."""
    if verdict.status == "inconclusive":
        return _prompts_step(verdict)
    if verdict.status == "failed" and verdict.limit_source == _OWN_LIMIT:
        return _OWN_STEP
    return _STEPS.get(verdict.status, "").format(verdict.metric)


def next_steps(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """Yield what to do about several verdicts: a step for each option that helps."""
    for status, step in _STEPS.items():
        metrics = {verdict.metric for verdict in verdicts if verdict.status == status}
        if metrics:
            yield step.format(metrics.pop() if len(metrics) == 1 else "METRIC")
    doubts: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        if verdict.status == "inconclusive":
            doubts.setdefault(METRICS[verdict.metric].more_evidence, []).append(verdict)
    for group in doubts.values():
        yield _prompts_step(max(group, key=lambda verdict: verdict.prompts_needed or math.inf))


def _prompts_step(verdict: Verdict) -> str:
    option = METRICS[verdict.metric].more_evidence
    if verdict.prompts_needed is None:
        return f"measure more prompts (--quantcheck-{option}); the number that would settle it is not known"
    needed, available = verdict.prompts_needed, verdict.prompts_available
    if available is not None and needed > available:
        return (
            f"{verdict.prompt_set} cannot settle it: it has {counted(available, 'prompt')}, and about {needed:,} would "
            "be needed; add a larger set (--quantcheck-prompts)"
        )
    more = "add prompts, and " if available is None else ""
    return f"about {needed:,} prompts would settle it: {more}--quantcheck-{option}={needed}"


def _facts(verdict: Verdict) -> dict[str, str]:
    estimate = verdict.estimate
    models = {"reference": estimate.reference, "candidate": estimate.candidate}
    facts = {
        "value": _value(estimate),
        "meaning": METRICS[verdict.metric].meaning,
        "limit": f"{bound(verdict)} ({_origin(verdict)})",
        **{model: number(value) for model, value in models.items() if value is not None},
        "prompts": f"{estimate.n_prompts:,} of {verdict.prompt_set}{estimate.method and f' ({estimate.method})'}",
        "reason": estimate.reason,
        "conditions": "; ".join(verdict.conditions),
        "outcome": reason_to_accept(verdict),
        "next": next_step(verdict),
    }
    return {key: fact for key, fact in facts.items() if fact}


def _value(estimate: Estimate) -> str:
    value = value_text(estimate)
    return value if estimate.value is None else f"{value} ({interval_text(estimate)})"


def _origin(verdict: Verdict) -> str:
    named = verdict.profile in verdict.limit_source
    return verdict.limit_source if named else f"{verdict.limit_source}; profile {verdict.profile}"
