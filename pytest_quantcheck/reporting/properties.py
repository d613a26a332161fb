"""Verdicts and estimates as properties of a test case."""

from pytest_quantcheck.metric_names import MetricName
from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.records import Comparison, Estimate, Verdict
from pytest_quantcheck.reporting.rows import worst_estimate

_Fact = str | float | None


def verdict_properties(verdict: Verdict) -> list[tuple[str, str | float]]:
    """List a verdict as names and values, for `user_properties` and JUnit.

    Facts without a value are left out.

    `quantcheck_limit` is the largest value that is good where `quantcheck_direction` is `max`, else the smallest.
    `quantcheck_acceptable` decides the outcome of the test case: an inconclusive verdict may pass.
    """
    facts: dict[str, _Fact] = {
        "metric": verdict.metric,
        "candidate": verdict.candidate,
        "prompts": verdict.prompt_set,
        **_estimate_facts(verdict.estimate),
        "limit": verdict.limit,
        "direction": verdict.direction,
        "limit_source": verdict.limit_source,
        "profile": verdict.profile,
        "conditions": "; ".join(verdict.conditions),
        "status": verdict.status,
        "acceptable": "yes" if verdict.acceptable else "no",
        "prompts_needed": verdict.prompts_needed,
    }
    return _prefixed(facts)


def ungated_properties(comparison: Comparison, metric: MetricName, *, reason: str) -> list[tuple[str, str | float]]:
    """List an ungated metric as names and values: its worst layer's estimate.

    `quantcheck_reason` says why nothing was judged, after the reason why nothing was estimated, if there is one.
    """
    estimates = comparison.of(metric)
    measured = _estimate_facts(worst_estimate(estimates, METRICS[metric])) if estimates else {}
    facts: dict[str, _Fact] = {
        "metric": metric,
        "candidate": comparison.candidate,
        "prompts": comparison.prompt_set,
        **measured,
        "reason": "; ".join(filter(None, (str(measured.get("reason") or ""), reason))),
        "profile": comparison.profile.label if comparison.profile else None,
        "conditions": "; ".join(comparison.conditions),
        "status": "not gated",
    }
    return _prefixed(facts)


def _estimate_facts(estimate: Estimate) -> dict[str, _Fact]:
    return {
        "n_prompts": estimate.n_prompts,
        "layer": estimate.layer,
        "value": estimate.value,
        "unit": METRICS[estimate.metric].unit,
        "low": estimate.low,
        "high": estimate.high,
        "confidence": estimate.confidence,
        "method": estimate.method,
        "reason": estimate.reason,
        "reference_value": estimate.reference,
        "candidate_value": estimate.candidate,
    }


def _prefixed(facts: dict[str, _Fact]) -> list[tuple[str, str | float]]:
    return [(f"quantcheck_{name}", fact) for name, fact in facts.items() if fact not in {None, ""}]
