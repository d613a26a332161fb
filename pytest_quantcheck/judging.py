"""Judge comparisons by a profile: on which side of its limit does an interval lie?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from pytest_quantcheck.analyses.resampling import prompts_to_settle
from pytest_quantcheck.metric_names import MetricName
from pytest_quantcheck.metrics import METRICS, find_metric
from pytest_quantcheck.profiles import Limit, Profile
from pytest_quantcheck.records import RELEASED, WORST_FIRST, Comparison, Estimate, Status, Verdict


def judge(comparison: Comparison, metric: MetricName, profile: Profile) -> Verdict | None:
    """Judge one metric of a comparison by a profile.

    The worst gated layer decides for a layered metric. Layers where the metric is not defined for the reference are
    left out. If no gated layer remains, or nothing was estimated, the metric is unmeasured.

    Returns:
        The verdict, or None when the profile does not gate the metric, or not with so few prompts, or when no measured
        layer of the model has what it is about.
    """
    if "routing" in find_metric(metric).needs and not comparison.of(metric):
        return None
    estimates = comparison.of(metric) or _not_measured(comparison, metric, profile)
    limits = ((estimate, _limit(comparison, estimate, profile)) for estimate in estimates)
    gated = [(estimate, limit) for estimate, limit in limits if limit is not None]
    if not gated:
        return None
    applicable = [(estimate, limit) for estimate, limit in gated if estimate.applicable] or [
        _none_left(comparison, profile, gated)
    ]
    return min((_verdict(comparison, estimate, limit, profile) for estimate, limit in applicable), key=_severity)


def _limit(comparison: Comparison, estimate: Estimate, profile: Profile) -> Limit | None:
    limit = profile.limit(
        estimate.metric,
        bits=_width_for_limits(comparison),
        layer=estimate.layer,
        n_layers=comparison.reference_provenance.n_layers,
        model=comparison.reference_provenance.model,
        prompts=comparison.prompt_set,
    )
    return limit if limit and comparison.n_prompts >= limit.from_prompts else None


def _width_for_limits(comparison: Comparison) -> str:
    """Find the bit-width by which limits are chosen; checkpoints saved by bitsandbytes have one."""
    candidate = comparison.candidate_provenance
    released = candidate.bits == RELEASED
    return candidate.format.removeprefix("bitsandbytes ") if released else comparison.candidate


def _not_measured(comparison: Comparison, metric: MetricName, profile: Profile) -> tuple[Estimate, ...]:
    layers = comparison.reference_provenance.layers if METRICS[metric].layered else (None,)
    estimate = _unmeasured(metric, "it was not measured", comparison, profile)
    return tuple(msgspec.structs.replace(estimate, layer=layer) for layer in layers)


def _none_left(
    comparison: Comparison, profile: Profile, gated: Sequence[tuple[Estimate, Limit]]
) -> tuple[Estimate, Limit]:
    reasons = "; ".join(f"layer {estimate.layer}: {estimate.reason}" for estimate, _ in gated)
    estimate, limit = gated[0]
    return _unmeasured(estimate.metric, reasons, comparison, profile), limit


def _unmeasured(metric: MetricName, reason: str, comparison: Comparison, profile: Profile) -> Estimate:
    return Estimate(
        metric=metric, confidence=profile.confidence, n_prompts=comparison.n_prompts, method="", reason=reason
    )


def _verdict(comparison: Comparison, estimate: Estimate, limit: Limit, profile: Profile) -> Verdict:
    status = _status(estimate, limit)
    acceptable = _acceptable(status, estimate, limit, profile)
    return Verdict(
        metric=estimate.metric,
        candidate=comparison.candidate,
        prompt_set=comparison.prompt_set,
        status=status,
        acceptable=acceptable,
        warning=acceptable and status != "passed",
        estimate=estimate,
        limit=limit.value,
        direction=limit.direction,
        limit_source=limit.source,
        profile=profile.label,
        conditions=comparison.conditions,
        prompts_needed=_needed(estimate, limit) if status == "inconclusive" else None,
        prompts_available=comparison.evidence.available if comparison.evidence else None,
    )


def _status(estimate: Estimate, limit: Limit) -> Status:
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return "unmeasured"
    good, bad = (
        (estimate.high <= limit.value, estimate.low > limit.value)
        if limit.direction == "max"
        else (estimate.low >= limit.value, estimate.high < limit.value)
    )
    return "passed" if good else "failed" if bad else "inconclusive"


def _acceptable(status: Status, estimate: Estimate, limit: Limit, profile: Profile) -> bool:
    if status == "unmeasured":
        return estimate.metric in profile.allow_unmeasured
    if status == "inconclusive":
        return profile.inconclusive == "warn" or (profile.inconclusive == "point" and _margin(estimate, limit) >= 0)
    return status == "passed"


def _margin(estimate: Estimate, limit: Limit) -> float:
    """Measure the distance from the limit, positive on the good side."""
    assert estimate.value is not None
    return limit.value - estimate.value if limit.direction == "max" else estimate.value - limit.value


def _needed(estimate: Estimate, limit: Limit) -> int | None:
    """Estimate the number of prompts that would settle a verdict: prompts to attribute, where only some converge."""
    assert estimate.value is not None
    assert estimate.low is not None
    assert estimate.high is not None
    needed = prompts_to_settle(
        estimate.value,
        estimate.low,
        estimate.high,
        limit.value,
        estimate.n_prompts,
        confidence=estimate.confidence,
        floor=estimate.details.get("floor", 0.0),
    )
    attributed = estimate.details.get("attributed", estimate.n_prompts)
    return None if needed is None else math.ceil(needed * attributed / estimate.n_prompts)


def _severity(verdict: Verdict) -> tuple[bool, int, float]:
    """Sort worst first: by acceptable or not, status, distance beyond the limit."""
    value, sign = verdict.estimate.value, 1 if METRICS[verdict.metric].direction == "max" else -1
    margin = 0.0 if value is None else sign * (verdict.limit - value)
    return verdict.acceptable, WORST_FIRST.index(verdict.status), margin
