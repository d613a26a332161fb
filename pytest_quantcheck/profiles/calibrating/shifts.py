"""How far controls moved one metric, as numbers that are large when they are bad."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import NamedTuple

from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.records import Comparison, Estimate


class Shift(NamedTuple):
    """One control's estimate of one metric, at one layer if it has layers.

    `value` and `low` are large when they are bad: for a metric with a lower limit, the overlap, they are what is
    missing to 1. `error` is the standard error; `units`: of how many prompts (or neurons) the value is a mean or share;
    `prompts`: how many were measured.
    """

    control: str
    layer: int | None
    value: float
    low: float
    error: float
    units: int
    prompts: int


def shifts(comparisons: Sequence[Comparison], metric: str) -> list[Shift]:
    """What was measured of a metric; estimates without a value, and layers that take no part, are left out."""
    return [
        _shift(name, estimate)
        for name, comparison in named(comparisons)
        for estimate in comparison.of(metric)
        if estimate.applicable and estimate.value is not None
    ]


def unmeasured(comparisons: Sequence[Comparison], metric: str) -> list[str]:
    """The controls of which a metric gave no value at some layer that takes part, each once."""
    lacking = (
        name
        for name, comparison in named(comparisons)
        if any(estimate.applicable and estimate.value is None for estimate in comparison.of(metric))
    )
    return list(dict.fromkeys(lacking))


def named(comparisons: Sequence[Comparison]) -> Iterator[tuple[str, Comparison]]:
    """Yield each comparison with its control's name, and the prompt set where there are several."""
    several = len({comparison.prompt_set for comparison in comparisons}) > 1
    for comparison in comparisons:
        yield f"{comparison.candidate} on {comparison.prompt_set}" if several else comparison.candidate, comparison


def as_read(metric: str, shift: float) -> float:
    """A shift as the metric's own value: an overlap again, where it is what is missing to 1."""
    return shift if METRICS[metric].direction == "max" else 1 - shift


def _shift(control: str, estimate: Estimate) -> Shift:
    value, low, high = _bad_upwards(estimate)
    # The wider of the half width and the side towards the limit: an interval that ends at 0 is short on the other side.
    half = max(high - value, (high - low) / 2)
    error = half / NormalDist().inv_cdf((1 + estimate.confidence) / 2)
    units = int(estimate.details.get("neurons", estimate.n_prompts))
    return Shift(control, estimate.layer, value, low, error, units, estimate.n_prompts)


def _bad_upwards(estimate: Estimate) -> tuple[float, float, float]:
    assert estimate.value is not None
    low = estimate.value if estimate.low is None else estimate.low
    high = estimate.value if estimate.high is None else estimate.high
    if METRICS[estimate.metric].direction == "max":
        return estimate.value, low, high
    return 1 - estimate.value, 1 - high, 1 - low
