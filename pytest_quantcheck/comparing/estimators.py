"""Registry of the functions that estimate metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, TypeVar

from pytest_quantcheck.metric_names import MetricName
from pytest_quantcheck.metrics import METRICS, Metric
from pytest_quantcheck.records import Estimate

_Estimator = TypeVar("_Estimator", bound=Callable[..., Estimate])

_ESTIMATORS: dict[MetricName, Callable[..., Estimate]] = {}


def estimates(metric: MetricName) -> Callable[[_Estimator], _Estimator]:
    """Register the decorated function as the one that estimates a metric.

    The function takes, for a metric of answers, both models' `Answers`, for one of scored tokens their `ScoredTokens`;
    for a layered one the layer's number, both models' `Activations` of each FFN there and the number of prompts; for
    one that needs attributions or routing, the layer's number and both models' `Saliency` or `Experts` there. The last
    argument is always an `IntervalSettings`. A comparison has its estimates in the order of registration.
    """

    def register(function: _Estimator) -> _Estimator:
        _ESTIMATORS[metric] = function
        return function

    return register


def estimators(*, of: Literal["answers", "tokens", "layers"]) -> Iterator[tuple[MetricName, Callable[..., Estimate]]]:
    """Yield the functions of some metrics, with names."""
    return ((name, estimate) for name, estimate in _ESTIMATORS.items() if _subject(METRICS[name]) == of)


def _subject(metric: Metric) -> str:
    """Say what a metric is of."""
    if metric.layered:
        return "layers"
    return "tokens" if "scored tokens" in metric.needs else "answers"
