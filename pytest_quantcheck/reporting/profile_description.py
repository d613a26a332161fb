"""Descriptions of profiles and of their differences, as lines of text."""

import textwrap
from collections.abc import Iterator

from pytest_quantcheck.errors import printable
from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.profiles import Limit, Profile, Rule
from pytest_quantcheck.reporting.wording import BOUNDS, interval_name

TEXT_WIDTH = 80

_DECISIONS = {
    "fail": "the verdict is inconclusive and fails",
    "warn": "the verdict is inconclusive and passes with a warning",
    "point": "the value alone decides",
}


def profile_lines(profile: Profile) -> Iterator[str]:
    """Yield a whole profile: description, decision rule, and every limit with its evidence."""
    yield from _wrapped(profile.label)
    yield from _wrapped(profile.path)
    yield ""
    yield from _wrapped(profile.description, "  ")
    yield ""
    yield from _wrapped(f"decision: {_decision(profile)} (inconclusive = {profile.inconclusive})")
    for metric in profile.metrics:
        yield ""
        yield from _metric_lines(metric, [rule for rule in profile.rules if rule.limit.metric == metric])


def difference_lines(old: Profile, new: Profile) -> Iterator[str]:
    """Yield the differences between two profiles, except name, version and path."""
    yield from _difference("decision.confidence", repr(old.confidence), repr(new.confidence))
    yield from _difference("decision.inconclusive", old.inconclusive, new.inconclusive)
    before, after = ({_place(rule): rule.limit for rule in profile.rules} for profile in (old, new))
    for place in dict.fromkeys([*before, *after]):
        yield from _limit_change(place, before.get(place), after.get(place))
    if old.description != new.description:
        yield "description: changed"


def _decision(profile: Profile) -> str:
    return f"{interval_name(profile.confidence)}; where a limit lies inside it, {_DECISIONS[profile.inconclusive]}"


def _metric_lines(name: str, rules: list[Rule]) -> Iterator[str]:
    metric = METRICS[name]
    yield f"{name} ({metric.title}): fails {metric.failing_side} its limit"
    for rule in rules:
        case = _case(rule) or ("every other case" if len(rules) > 1 else "every case")
        value = f"{BOUNDS[rule.limit.direction]} {rule.limit.value!r} {metric.unit}".rstrip()
        yield from _wrapped(f"{value}, {case}{_from(rule.limit)}", "  ")
        yield from _wrapped(rule.limit.evidence, "    ")


def _limit_change(place: str, old: Limit | None, new: Limit | None) -> Iterator[str]:
    if old is None or new is None:
        word, limit = ("removed", old) if new is None else ("added", new)
        assert limit is not None
        yield f"{place}: {word}, {limit.direction} {limit.value!r}"
    elif (old.value, old.from_prompts) != (new.value, new.from_prompts):
        yield from _difference(f"{place}.{new.direction}", repr(old.value), repr(new.value))
        yield from _difference(f"{place}.from_prompts", str(old.from_prompts), str(new.from_prompts))
    elif old.evidence != new.evidence:
        yield f"{place}: the same limit on other evidence"


def _difference(place: str, old: str, new: str) -> Iterator[str]:
    if old != new:
        yield f"{place}: {old} -> {new}"


def _place(rule: Rule) -> str:
    case = _case(rule)
    return f"metrics.{rule.limit.metric}{case and f' ({case})'}"


def _from(limit: Limit) -> str:
    return f", from {limit.from_prompts:,} prompts up" if limit.from_prompts > 1 else ""


def _case(rule: Rule) -> str:
    return printable(", ".join(f"{key}={value}" for key, value in rule.case.items()))


def _wrapped(text: str, indent: str = "") -> Iterator[str]:
    yield from textwrap.wrap(
        printable(text), TEXT_WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
