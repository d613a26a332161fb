"""How intervals are made, and estimates from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Required, TypedDict, Unpack

from pytest_quantcheck.analyses import resampling
from pytest_quantcheck.analyses.draws import Counts
from pytest_quantcheck.analyses.resampling import Floats, Interval, fold
from pytest_quantcheck.records import Estimate


class Facts(TypedDict, total=False):
    """What an estimate says beside its value and interval; the fields of `Estimate` of those names."""

    layer: int
    method: Required[str]
    reference: float
    candidate: float
    details: dict[str, float]


@dataclass(frozen=True)
class Sampling:
    """Confidence level in (0, 1), number of bootstrap draws, and their seed."""

    confidence: float = 0.95
    draws: int = 2000
    seed: int = 0

    @property
    def quantile(self) -> float:
        """Half the width, in standard errors, of a normal interval of this confidence."""
        return resampling.normal_quantile(self.confidence)

    def mean(self, values: Floats) -> Interval:
        """Interval of the mean over prompts of `values` (n,) that have no bounds; see `studentised_bootstrap`."""
        return resampling.studentised_bootstrap(values, draws=self.draws, confidence=self.confidence, seed=self.seed)

    def mean_share(self, values: Floats) -> Interval:
        """Interval of the mean over prompts of `values` (n,) in [0, 1]; see `bounded_mean`."""
        return resampling.bounded_mean(values, draws=self.draws, confidence=self.confidence, seed=self.seed)

    def halves(self, statistic: Callable[[Counts], Floats], value: float, n: int) -> Interval:
        """Interval of a signed statistic that is biased with few prompts; see `half_sampled`."""
        return resampling.half_sampled(
            statistic, value, n, draws=self.draws, confidence=self.confidence, seed=self.seed
        )

    def drift(self, metric: str, change: float, signed: Interval, n: int, **facts: Unpack[Facts]) -> Estimate:
        """Estimate the size of a signed change from its interval."""
        return self.estimate(metric, abs(change), fold(signed.low, signed.high), n, **facts)

    def estimate(self, metric: str, value: float, interval: Interval, n: int, **facts: Unpack[Facts]) -> Estimate:
        """Record a value with its interval; the interval is made to hold the value, as rounding may put it off."""
        return Estimate(
            metric=metric,
            value=value,
            low=min(interval.low, value),
            high=max(interval.high, value),
            confidence=self.confidence,
            n_prompts=n,
            **facts,
        )

    def nothing(
        self, metric: str, reason: str, n: int, *, layer: int | None = None, applicable: bool = True
    ) -> Estimate:
        """Record that there is no value, and why."""
        return Estimate(
            metric=metric,
            layer=layer,
            confidence=self.confidence,
            n_prompts=n,
            method="",
            applicable=applicable,
            reason=reason,
        )
