"""Registry of the functions that estimate metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from pytest_quantcheck.metric_names import MetricName
from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.records import Estimate

_Estimator = TypeVar("_Estimator", bound=Callable[..., Estimate])

_ESTIMATORS: dict[str, Callable[..., Estimate]] = {}


def estimates(metric: MetricName) -> Callable[[_Estimator], _Estimator]:
    """Register the decorated function as the one that estimates a metric.

    The function takes, for a metric without layers, both models' `Answers`; for a layered one the layer's number, both
    models' `Activations` of each FFN there and the number of prompts; for one that needs attributions or routing, the
    layer's number and both models' `Saliency` or `Experts` there. The last argument is always an `IntervalSettings`. A
    comparison has its estimates in the order of registration.
    """

    def register(function: _Estimator) -> _Estimator:
        _ESTIMATORS[metric] = function
        return function

    return register


def estimators(*, layered: bool) -> Iterator[tuple[str, Callable[..., Estimate]]]:
    """Yield the functions of the metrics with or without layers, with names."""
    return ((name, estimate) for name, estimate in _ESTIMATORS.items() if METRICS[name].layered == layered)
