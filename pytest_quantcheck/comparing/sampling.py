"""How intervals are made, and estimates from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict, Unpack

from scipy import stats

from ..analyses.resampling import Counts, Floats, Interval, fold, paired_bootstrap
from ..records import Estimate


class Facts(TypedDict, total=False):
    """What an estimate says beside its value and interval; the fields of `Estimate` of those names."""

    layer: int
    method: str
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
        return float(stats.norm.ppf((1 + self.confidence) / 2))

    def bootstrap(self, statistic: Callable[[Counts], Floats], n: int) -> Interval:
        """Interval of a statistic of n prompts; see `paired_bootstrap`."""
        return paired_bootstrap(statistic, n, draws=self.draws, confidence=self.confidence, seed=self.seed)

    def mean(self, metric: str, values: Floats, **facts: Unpack[Facts]) -> Estimate:
        """Estimate the mean over prompts of `values` (n,)."""
        interval = self.bootstrap(lambda counts: counts @ values / len(values), len(values))
        return self.estimate(metric, float(values.mean()), interval, len(values), **facts)

    def drift(self, metric: str, change: float, signed: Interval, n: int, **facts: Unpack[Facts]) -> Estimate:
        """Estimate the size of a signed change from its interval."""
        return self.estimate(metric, abs(change), fold(signed.low, signed.high), n, **facts)

    def estimate(self, metric: str, value: float, interval: Interval, n: int, **facts: Unpack[Facts]) -> Estimate:
        """Record a value with its interval; the interval is made to hold the value, as rounding may put it off."""
        facts.setdefault("method", f"paired bootstrap, {self.draws} draws")
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
