"""Assertions for users' tests: each fails when one metric of a comparison is not within its limit.

Each metric in `METRICS` has its own: `assert_` and the metric's name.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from pytest_quantcheck.errors import ComparisonError, ProfileError
from pytest_quantcheck.judging import judge
from pytest_quantcheck.metric_names import MetricName
from pytest_quantcheck.metrics import METRICS, Metric, find_metric
from pytest_quantcheck.options.labels import DEFAULT_PROFILE
from pytest_quantcheck.profiles import load_profile
from pytest_quantcheck.records import Comparison, Verdict
from pytest_quantcheck.reporting.wording import failure_message, headline, reason_to_accept


class QuantcheckWarning(UserWarning):
    """A verdict that passes and needs attention: inconclusive or unmeasured, where that is allowed."""


def assert_metric(comparison: Comparison, metric: MetricName, *, limit: float | None = None) -> Verdict:
    """Fail unless one metric of a candidate is within its limit.

    Args:
        comparison: from the `quantcheck` fixture's `compare`, or from `comparing.compare`.
        metric: a name in `METRICS`.
        limit: replaces the profile's limits for this metric; some values of the metric keep it, others do not.

    Returns:
        The verdict.

    Raises:
        AssertionError: the metric is beyond its limit, unmeasured, or inconclusive where the profile does not allow
            that. The text says what moved, how far, how sure that is and against which limit.
        ProfileError: the limit cannot be used, or there is none.
        TypeError: `comparison` is not a comparison.
        MetricError: there is no such metric.
    """
    __tracebackhide__ = True
    return _assert_within(comparison, metric, limit)


if not TYPE_CHECKING:  # type checkers read the names in __init__.pyi

    def __getattr__(name: str) -> Callable[..., Verdict]:
        metric = METRICS.get(name.removeprefix("assert_"))
        if metric is None or name != f"assert_{metric.name}":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return _make_assertion(metric)


@cache
def _make_assertion(metric: Metric) -> Callable[..., Verdict]:
    def check(comparison: Comparison, *, limit: float | None = None) -> Verdict:
        __tracebackhide__ = True
        return _assert_within(comparison, metric.name, limit)

    check.__name__ = check.__qualname__ = f"assert_{metric.name}"
    check.__doc__ = _docstring(metric)
    return check


def _docstring(metric: Metric) -> str:
    worst = " The worst layer decides." if metric.layered else ""
    return f"""Fail when the {metric.title} is {metric.failing_side} its limit: {metric.meaning}.

    The value: {metric.definition}.{worst}
    It lies between {metric.least:g} and {metric.most:g} {metric.unit}.

    `limit` replaces the profile's limits for this metric. Arguments, result and errors are those of `assert_metric`.
    """.replace(" .", ".")


def _assert_within(comparison: Comparison, metric: MetricName, limit: float | None) -> Verdict:
    """Judge one metric; a warning points at the line that called the public function."""
    __tracebackhide__ = True
    find_metric(metric)
    if not isinstance(comparison, Comparison):
        raise TypeError(f'expected a comparison, such as quantcheck.compare("int8"), got {comparison!r:.100}')
    profile = comparison.profile or load_profile(DEFAULT_PROFILE)
    if limit is not None:
        profile = profile.with_limits([(metric, limit)], source="limit=")
    verdict = judge(comparison, metric, profile)
    if verdict is None and "routing" in METRICS[metric].needs:
        model = comparison.reference_provenance.model
        raise ComparisonError(f"{metric} is of mixtures of experts, and no measured layer of {model} is one")
    if verdict is None:
        case = f"{metric} on {comparison.n_prompts} prompts"
        raise ProfileError(f"profile {profile.label} has no limit for {case}; give one with limit=")
    enforce(verdict, stacklevel=4)
    return verdict


def enforce(verdict: Verdict, *, stacklevel: int = 2) -> None:
    """Fail on an unacceptable verdict; warn of one that needs attention.

    Args:
        verdict: from `judge`.
        stacklevel: of the warning, counted from this function; 2 is its caller.

    Raises:
        AssertionError: the verdict is not acceptable.
    """
    __tracebackhide__ = True
    if not verdict.acceptable:
        raise AssertionError(failure_message(verdict))
    if verdict.warning:
        warnings.warn(QuantcheckWarning(f"{headline(verdict)}; {reason_to_accept(verdict)}"), stacklevel=stacklevel)
