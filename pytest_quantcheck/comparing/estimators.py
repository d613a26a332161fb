"""Registry of the functions that estimate metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.records import Estimate

_Estimator = TypeVar("_Estimator", bound=Callable[..., Estimate])

_ESTIMATORS: dict[str, Callable[..., Estimate]] = {}


def estimates(metric: str) -> Callable[[_Estimator], _Estimator]:
    """Register the decorated function as the one that estimates a metric.

    It takes both models' `Answers` and a `Sampling`. For a layered metric it takes the layer's number, both models'
    `Activations` there, the number of prompts and a `Sampling`; if the metric needs attributions, the layer's number,
    both models' `Saliency` there and a `Sampling`. A comparison has its estimates in the order of registration.
    """

    def register(function: _Estimator) -> _Estimator:
        _ESTIMATORS[metric] = function
        return function

    return register


def estimators(*, layered: bool) -> Iterator[tuple[str, Callable[..., Estimate]]]:
    """Yield the functions of the metrics with or without layers, with names."""
    return ((name, estimate) for name, estimate in _ESTIMATORS.items() if METRICS[name].layered == layered)
