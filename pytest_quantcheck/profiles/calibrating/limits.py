"""What the controls showed of one metric: how far chance goes, which damage lies beyond, where the limit goes."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.profiles.calibrating.bounds import harmless_bound, largest, limit_between
from pytest_quantcheck.profiles.calibrating.shifts import Shift, shifts, unmeasured
from pytest_quantcheck.records import Comparison


class LimitBasis(NamedTuple):
    """One metric's bound and limit, and what they rest on; shifts are large when they are bad.

    `seen` and `unseen` hold each defect's largest shift, the smallest first; `unmeasured` names the controls without
    a value.
    """

    metric: str
    harmless: tuple[Shift, ...]
    bound: float
    shift: Decimal
    seen: dict[str, float]
    unseen: dict[str, float]
    unmeasured: tuple[str, ...]

    @property
    def limit(self) -> float:
        """The limit as the metric is read."""
        return float(self.shift if METRICS[self.metric].direction == "max" else 1 - self.shift)

    @property
    def can_fail(self) -> bool:
        """Whether some value would be on the bad side of the limit."""
        return self.shift < METRICS[self.metric].largest_shift


def find_limits(
    harmless: Sequence[Comparison], damaged: Sequence[Comparison], rate: float
) -> tuple[list[LimitBasis], int]:
    """What was found of each metric that the harmless models have a value of, and how many tests share the rate."""
    measured = {metric: found for metric in METRICS if (found := shifts(harmless, metric))}
    tests = sum(len({shift.layer for shift in found}) for found in measured.values())
    return [
        _find_limit(metric, found, shifts(damaged, metric), rate / tests, unmeasured([*harmless, *damaged], metric))
        for metric, found in measured.items()
    ], tests


def _find_limit(
    metric: str, harmless: Sequence[Shift], damaged: Sequence[Shift], share: float, lacking: Sequence[str]
) -> LimitBasis:
    bound = harmless_bound(harmless, share)
    seen = largest(shift for shift in damaged if shift.low > bound)
    return LimitBasis(
        metric=metric,
        harmless=tuple(harmless),
        bound=bound,
        shift=limit_between(bound, min(seen.values(), default=None)),
        seen=seen,
        unseen=largest(shift for shift in damaged if shift.control not in seen),
        unmeasured=tuple(lacking),
    )
