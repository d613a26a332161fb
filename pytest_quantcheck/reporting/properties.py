"""Verdicts as properties of a test case."""

from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.records import Verdict


def verdict_properties(verdict: Verdict) -> list[tuple[str, str | float]]:
    """Return a verdict as names and values, for `user_properties` and JUnit.

    Facts without a value are left out.

    `quantcheck_limit` is the largest value that is good where `quantcheck_direction` is `max`, else the smallest.
    `quantcheck_acceptable` decides the outcome of the test case: an inconclusive verdict may pass.
    """
    estimate = verdict.estimate
    facts: dict[str, str | float | None] = {
        "metric": verdict.metric,
        "candidate": verdict.candidate,
        "prompts": verdict.prompt_set,
        "n_prompts": estimate.n_prompts,
        "layer": estimate.layer,
        "value": estimate.value,
        "unit": METRICS[verdict.metric].unit or None,
        "low": estimate.low,
        "high": estimate.high,
        "confidence": estimate.confidence,
        "method": estimate.method or None,
        "reason": estimate.reason or None,
        "reference_value": estimate.reference,
        "candidate_value": estimate.candidate,
        "limit": verdict.limit,
        "direction": verdict.direction,
        "limit_source": verdict.limit_source,
        "profile": verdict.profile,
        "conditions": "; ".join(verdict.conditions) or None,
        "status": verdict.status,
        "acceptable": "yes" if verdict.acceptable else "no",
        "prompts_needed": verdict.prompts_needed,
    }
    return [(f"quantcheck_{name}", fact) for name, fact in facts.items() if fact is not None]
