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

    The metric's row says what the function takes. Without layers: both models' `Answers` and the `Sampling`. With
    layers: the layer's number, both models' `Activations` there, the number of prompts and the `Sampling`; a metric
    that needs attributions takes the layer's number, both models' `Saliency` there and the `Sampling`. Estimates stand
    in a comparison in the order in which their functions are registered.
    """

    def register(function: _Estimator) -> _Estimator:
        _ESTIMATORS[metric] = function
        return function

    return register


def estimators(*, layered: bool) -> Iterator[tuple[str, Callable[..., Estimate]]]:
    """Yield the functions of the metrics with or without layers, with names."""
    return ((name, estimate) for name, estimate in _ESTIMATORS.items() if METRICS[name].layered == layered)
