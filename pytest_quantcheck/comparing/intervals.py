"""Settings of confidence intervals, and the estimates made with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Required, TypedDict, Unpack

from pytest_quantcheck.analyses import resampling
from pytest_quantcheck.analyses.draws import Counts
from pytest_quantcheck.analyses.resampling import Floats, Interval, fold
from pytest_quantcheck.metric_names import MetricName
from pytest_quantcheck.records import Estimate


class Facts(TypedDict, total=False):
    """Fields of `Estimate` other than value and interval."""

    layer: int
    method: Required[str]
    reference: float
    candidate: float
    details: dict[str, float]


@dataclass(frozen=True)
class IntervalSettings:
    """Settings of intervals: confidence level in (0, 1), number of draws, seed of the draws."""

    confidence: float = 0.95
    draws: int = 2000
    seed: int = 0

    @property
    def quantile(self) -> float:
        """Half the width of a normal interval, in standard errors."""
        return resampling.two_sided_quantile(self.confidence)

    def mean(self, values: Floats) -> Interval:
        """Estimate the interval of the mean of unbounded `values` (n,); see `studentised_bootstrap`."""
        return resampling.studentised_bootstrap(values, draws=self.draws, confidence=self.confidence, seed=self.seed)

    def bounded_mean(self, values: Floats) -> Interval:
        """Estimate the interval of the mean of `values` (n,) in [0, 1]; see `bounded_mean`."""
        return resampling.bounded_mean(values, draws=self.draws, confidence=self.confidence, seed=self.seed)

    def half_sampled(self, statistic: Callable[[Counts], Floats], value: float, n: int) -> Interval:
        """Estimate the interval of a signed, biased statistic; see `half_sampled`."""
        return resampling.half_sampled(
            statistic, value, n, draws=self.draws, confidence=self.confidence, seed=self.seed
        )

    def absolute_change(
        self, metric: MetricName, change: float, signed: Interval, n: int, **facts: Unpack[Facts]
    ) -> Estimate:
        """Record the estimate of the size of a signed change."""
        return self.estimate(metric, abs(change), fold(signed.low, signed.high), n, **facts)

    def estimate(
        self, metric: MetricName, value: float, interval: Interval, n: int, **facts: Unpack[Facts]
    ) -> Estimate:
        """Record the estimate of a value; the interval is extended to the value, which rounding may exclude."""
        return Estimate(
            metric=metric,
            value=value,
            low=min(interval.low, value),
            high=max(interval.high, value),
            confidence=self.confidence,
            n_prompts=n,
            **facts,
        )

    def undefined(
        self, metric: MetricName, reason: str, n: int, *, layer: int | None = None, applicable: bool = True
    ) -> Estimate:
        """Record an estimate without a value, and the reason."""
        return Estimate(
            metric=metric,
            layer=layer,
            confidence=self.confidence,
            n_prompts=n,
            method="",
            applicable=applicable,
            reason=reason,
        )
