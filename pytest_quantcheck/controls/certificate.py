"""The certificate of a gate: whether it fails damaged models and passes all others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Annotated, Literal

import msgspec

from pytest_quantcheck.controls.catalogue import CONTROLS, ControlKind
from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.records import Verdict
from pytest_quantcheck.text import plural

ControlOutcome = Literal["passed", "failed", "not applicable"]

_WORST_FIRST: tuple[ControlOutcome, ...] = ("failed", "passed", "not applicable")


class ControlResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one control on one prompt set.

    A null or a rewrite passes when every verdict on it is acceptable. A defect passes when a metric saw it: its verdict
    is `failed` or `unmeasured`, and not acceptable. `seen_by`: the metrics that saw a defect; for a null or a rewrite
    the metrics whose verdict is not acceptable. `done`: what was done to the reference; `reason`: why the control
    failed, or why it has no verdicts. `verdicts`: one for each gated metric, with the estimate that decided (that of
    the worst layer).
    """

    control: str
    kind: ControlKind
    prompt_set: str
    outcome: ControlOutcome
    done: str = ""
    reason: str = ""
    seen_by: tuple[str, ...] = ()
    verdicts: tuple[Verdict, ...] = ()


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """The range of a metric over the nulls and rewrites.

    It is that of one prompt set. Each control counts with its worst layer. `smallest`, `largest`: of the values;
    `resolvable`: the end of their intervals that is furthest towards the failing side, the smallest effect that
    `n_prompts` prompts can tell from no effect.
    """

    metric: str
    prompt_set: str
    n_prompts: int
    n_controls: int
    smallest: float
    largest: float
    resolvable: float


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """The results of all controls of a run: one model, one profile."""

    schema: Literal[1]
    tool_version: str
    created: Annotated[datetime, msgspec.Meta(tz=True)]
    model: str
    profile: str
    outcome: Literal["passed", "failed", "partial"]
    conclusion: str
    spreads: tuple[Spread, ...]
    controls: tuple[ControlResult, ...]


def judge_control(control: str, prompt_set: str, verdicts: Sequence[Verdict], *, done: str) -> ControlResult:
    """Decide the result of a control from the verdicts on it."""
    if not verdicts:
        return without_verdicts(control, prompt_set, "not applicable", "the profile has no limit in this case")
    defect = CONTROLS[control].kind == "defect"
    against = [verdict for verdict in verdicts if not verdict.acceptable]
    seen_by = tuple(v.metric for v in against if not defect or v.status != "inconclusive")
    return ControlResult(
        control=control,
        kind=CONTROLS[control].kind,
        prompt_set=prompt_set,
        outcome="passed" if bool(seen_by) == defect else "failed",
        done=done,
        reason=_defect_reason(seen_by, against) if defect else _null_reason(seen_by),
        seen_by=seen_by,
        verdicts=tuple(verdicts),
    )


def without_verdicts(
    control: str, prompt_set: str, outcome: ControlOutcome, reason: str, *, seen_by: tuple[str, ...] = ()
) -> ControlResult:
    """Record the result of a control without verdicts, and the reason."""
    kind = CONTROLS[control].kind
    return ControlResult(
        control=control, kind=kind, prompt_set=prompt_set, outcome=outcome, reason=reason, seen_by=seen_by
    )


def certify(
    results: Iterable[ControlResult], *, whole: bool, model: str, profile: str, tool_version: str, created: datetime
) -> Certificate:
    """Certify a run's controls.

    It passes when no control failed and the run is `whole`: it left no control out, else it is partial. `created` has a
    time zone.
    """
    controls = in_order(results)
    failed = any(result.outcome == "failed" for result in controls)
    return Certificate(
        schema=1,
        tool_version=tool_version,
        created=created,
        model=model,
        profile=profile,
        outcome="failed" if failed else "passed" if whole else "partial",
        conclusion=conclusion(controls),
        spreads=tuple(spreads(controls)),
        controls=controls,
    )


def in_order(results: Iterable[ControlResult]) -> tuple[ControlResult, ...]:
    """Sort the results by prompt set, then as in the catalogue."""
    places = {name: place for place, name in enumerate(CONTROLS)}
    return tuple(sorted(results, key=lambda result: (result.prompt_set, places[result.control])))


def spreads(results: Sequence[ControlResult]) -> Iterator[Spread]:
    """Yield the spread of each metric on each prompt set."""
    judged: dict[tuple[str, str], list[Verdict]] = {}
    for result in results:
        for verdict in result.verdicts if result.kind != "defect" else ():
            if verdict.estimate.value is not None:
                judged.setdefault((result.prompt_set, verdict.metric), []).append(verdict)
    for (prompt_set, metric), verdicts in judged.items():
        yield _spread(prompt_set, metric, verdicts)


def conclusion(results: Sequence[ControlResult]) -> str:
    """Say how many controls passed on all prompt sets."""
    negative, defects = (_outcomes(results, defects=defects) for defects in (False, True))
    left_out = [*negative, *defects].count("not applicable")
    counts = (
        _count_passed(negative, "negative control passed", "negative controls passed"),
        _count_passed(defects, "defect was caught", "defects were caught"),
        f"{left_out} not applicable" if left_out else "",
    )
    return ", ".join(filter(None, counts))


def titles(metrics: Iterable[str]) -> str:
    """Join the titles of metrics by commas."""
    return ", ".join(METRICS[metric].title for metric in metrics)


def _null_reason(seen_by: Sequence[str]) -> str:
    return f"called damage by {titles(seen_by)}" if seen_by else ""


def _defect_reason(seen_by: Sequence[str], against: Sequence[Verdict]) -> str:
    if seen_by:
        return ""
    doubt = titles(verdict.metric for verdict in against)
    return f"no metric saw it{f'; in doubt: {doubt}' if doubt else ''}"


def _spread(prompt_set: str, metric: str, verdicts: Sequence[Verdict]) -> Spread:
    estimates = [verdict.estimate for verdict in verdicts]
    values = [estimate.value for estimate in estimates if estimate.value is not None]
    highs = [estimate.high for estimate in estimates if estimate.high is not None]
    lows = [estimate.low for estimate in estimates if estimate.low is not None]
    return Spread(
        metric=metric,
        prompt_set=prompt_set,
        n_prompts=min(estimate.n_prompts for estimate in estimates),
        n_controls=len(verdicts),
        smallest=min(values),
        largest=max(values),
        resolvable=max(values + highs) if METRICS[metric].direction == "max" else min(values + lows),
    )


def _outcomes(results: Sequence[ControlResult], *, defects: bool) -> list[ControlOutcome]:
    """Find the worst outcome of each control over the prompt sets."""
    worst: dict[str, ControlOutcome] = {}
    for result in results:
        if (result.kind == "defect") == defects:
            earlier = worst.get(result.control, result.outcome)
            worst[result.control] = min(earlier, result.outcome, key=_WORST_FIRST.index)
    return list(worst.values())


def _count_passed(outcomes: Sequence[ControlOutcome], singular: str, many: str) -> str:
    judged = [outcome for outcome in outcomes if outcome != "not applicable"]
    return f"{judged.count('passed')} of {len(judged)} {plural(len(judged), singular, many)}" if judged else ""
