"""Assertions for users' own tests: each fails when one metric of a comparison is beyond its limit."""

from __future__ import annotations

import warnings

from pytest_quantcheck.errors import ProfileError
from pytest_quantcheck.judging import judge
from pytest_quantcheck.limits import find_metric
from pytest_quantcheck.profiles import load_profile
from pytest_quantcheck.records import Comparison, Verdict
from pytest_quantcheck.reporting.wording import concession, failure_message, headline

DEFAULT_PROFILE = "default@2"


class QuantcheckWarning(UserWarning):
    """A verdict that passes with a word: inconclusive under a profile that lets that pass."""


def assert_metric(comparison: Comparison, metric: str, *, limit: float | None = None) -> Verdict:
    """Fail unless one metric of a candidate is within its limit.

    Args:
        comparison: from the `quantcheck` fixture's `compare`, or from `comparing.compare`.
        metric: a name in `METRICS`.
        limit: replaces the profile's limits for this metric; finite, at least 0, in the metric's unit.

    Returns:
        The verdict.

    Raises:
        AssertionError: the metric is beyond its limit, unmeasured, or inconclusive where the profile does not
            let that pass. The text says what moved, how far, how sure that is and against which limit.
        ProfileError: the limit cannot be used, or there is none.
        TypeError: what was handed over is no comparison.
        ValueError: there is no such metric.
    """
    __tracebackhide__ = True
    return _assert_within(comparison, metric, limit)


def assert_accuracy_drop(comparison: Comparison, *, limit: float | None = None) -> Verdict:
    """Fail when accuracy falls by more than the limit: mean(correct) of the reference less the candidate's."""
    __tracebackhide__ = True
    return _assert_within(comparison, "accuracy_drop", limit)


def assert_confidence_drift(comparison: Comparison, *, limit: float | None = None) -> Verdict:
    """Fail when the mean confidence moves by more than the limit, up or down."""
    __tracebackhide__ = True
    return _assert_within(comparison, "confidence_drift", limit)


def assert_ace_drift(comparison: Comparison, *, limit: float | None = None) -> Verdict:
    """Fail when the adaptive calibration error (ten equal-count bins) moves by more than the limit, up or down."""
    __tracebackhide__ = True
    return _assert_within(comparison, "ace_drift", limit)


def assert_kl_divergence(comparison: Comparison, *, limit: float | None = None) -> Verdict:
    """Fail when the mean KL divergence of the answer distributions, in nats, exceeds the limit."""
    __tracebackhide__ = True
    return _assert_within(comparison, "kl_divergence", limit)


def assert_flip_rate(comparison: Comparison, *, limit: float | None = None) -> Verdict:
    """Fail when the share of prompts whose answer changed exceeds the limit."""
    __tracebackhide__ = True
    return _assert_within(comparison, "flip_rate", limit)


def assert_dead_neuron_delta(comparison: Comparison, *, limit: float | None = None) -> Verdict:
    """Fail when a layer's number of dead neurons moves by more than the limit, as a share of its neurons."""
    __tracebackhide__ = True
    return _assert_within(comparison, "dead_neuron_delta", limit)


def assert_dead_neuron_churn(comparison: Comparison, *, limit: float | None = None) -> Verdict:
    """Fail when more than the limit of a layer's neurons die or come alive: equal counts can hide other neurons."""
    __tracebackhide__ = True
    return _assert_within(comparison, "dead_neuron_churn", limit)


def assert_faint_neuron_churn(comparison: Comparison, *, limit: float | None = None) -> Verdict:
    """Fail when more than the limit of a layer's neurons become faint or cease to be, for their layer's own scale.

    `default@2` gates this metric, `default@1` does not.
    """
    __tracebackhide__ = True
    return _assert_within(comparison, "faint_neuron_churn", limit)


def assert_salient_overlap(comparison: Comparison, *, limit: float | None = None) -> Verdict:
    """Fail when the mean Jaccard index of a layer's salient neurons falls below the limit."""
    __tracebackhide__ = True
    return _assert_within(comparison, "salient_overlap", limit)


def assert_redundancy_change(comparison: Comparison, *, limit: float | None = None) -> Verdict:
    """Fail when a layer's correlations between neurons move by more than the limit on average."""
    __tracebackhide__ = True
    return _assert_within(comparison, "redundancy_change", limit)


def _assert_within(comparison: Comparison, metric: str, limit: float | None) -> Verdict:
    """Judge; a warning points at the line that called the public function."""
    __tracebackhide__ = True
    find_metric(metric)
    if not isinstance(comparison, Comparison):
        raise TypeError(f'expected a comparison, such as quantcheck.compare("int8"), got {comparison!r:.100}')
    profile = comparison.profile or load_profile(DEFAULT_PROFILE)
    if limit is not None:
        profile = profile.with_limits([(metric, limit)], source="limit=")
    verdict = judge(comparison, metric, profile)
    if verdict is None:
        case = f"{metric} on {comparison.n_prompts} prompts"
        raise ProfileError(f"profile {profile.label} has no limit for {case}; give one with limit=")
    if not verdict.acceptable:
        raise AssertionError(failure_message(verdict))
    if verdict.warning:
        warnings.warn(QuantcheckWarning(f"{headline(verdict)}; {concession(verdict)}"), stacklevel=3)
    return verdict
