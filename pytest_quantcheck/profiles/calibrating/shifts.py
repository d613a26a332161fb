"""How far controls moved a metric: shifts are large when they are bad."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pytest_quantcheck.analyses.resampling import two_sided_quantile
from pytest_quantcheck.metric_names import MetricName
from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.records import Comparison, Estimate


class Shift(NamedTuple):
    """The estimate of one metric for one control, at one layer.

    `value` and `low` are large when they are bad: for a metric with a lower limit, the overlap, they are distances
    to 1.
    """

    control: str
    layer: int | None
    """None for a metric without layers."""
    value: float
    low: float
    error: float
    """Standard error."""
    units: int
    """Number of prompts (or neurons) that the value is a mean or a share of."""
    prompts: int
    """Number of prompts measured."""


def shifts_of(comparisons: Sequence[Comparison], metric: MetricName) -> list[Shift]:
    """List the shifts of a metric; leave out missing values and layers that do not apply."""
    return [
        _shift(name, estimate)
        for name, comparison in _with_names(comparisons)
        for estimate in comparison.of(metric)
        if estimate.applicable and estimate.value is not None
    ]


def unmeasured_controls(comparisons: Sequence[Comparison], metric: MetricName) -> list[str]:
    """Find the controls that lack a value of a metric.

    A control is named once, however many of its layers lack one; layers that do not apply are left out.
    """
    missing = (
        name
        for name, comparison in _with_names(comparisons)
        if any(estimate.applicable and estimate.value is None for estimate in comparison.of(metric))
    )
    return list(dict.fromkeys(missing))


def _with_names(comparisons: Sequence[Comparison]) -> Iterator[tuple[str, Comparison]]:
    """Yield each comparison with its control's name; name the prompt set if there are several."""
    several = len({comparison.prompt_set for comparison in comparisons}) > 1
    for comparison in comparisons:
        yield f"{comparison.candidate} on {comparison.prompt_set}" if several else comparison.candidate, comparison


def metric_value(metric: MetricName, shift: float) -> float:
    """Turn a shift into a value of the metric: for the overlap 1 minus the shift."""
    return shift if METRICS[metric].direction == "max" else 1 - shift


def _shift(control: str, estimate: Estimate) -> Shift:
    value, low, high = _oriented(estimate)
    # The wider of the half width and the side towards the limit: an interval that ends at 0 is short on the other.
    half = max(high - value, (high - low) / 2)
    error = half / two_sided_quantile(estimate.confidence)
    units = int(estimate.details.get("neurons", estimate.n_prompts))
    return Shift(control, estimate.layer, value, low, error, units, estimate.n_prompts)


def _oriented(estimate: Estimate) -> tuple[float, float, float]:
    assert estimate.value is not None
    low = estimate.value if estimate.low is None else estimate.low
    high = estimate.value if estimate.high is None else estimate.high
    if METRICS[estimate.metric].direction == "max":
        return estimate.value, low, high
    return 1 - estimate.value, 1 - high, 1 - low
