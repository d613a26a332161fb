"""How limits are derived: how far harmless models move a metric by chance, and where damage begins."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from decimal import ROUND_CEILING, Decimal
from typing import NamedTuple

from pytest_quantcheck.analyses.resampling import two_sided_quantile
from pytest_quantcheck.metric_names import MetricName
from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.profiles.calibrating.shifts import Shift, shifts_of, unmeasured_controls
from pytest_quantcheck.records import Comparison

DIGITS = 2
"""Significant digits of a limit."""


class DerivedLimit(NamedTuple):
    """The limit of one metric, and what it was derived from.

    All fields but `limit` are shifts, which are large when they are bad. `seen` and `unseen` hold each defect's largest
    shift, the smallest first; `unmeasured` names the controls without a value.
    """

    metric: MetricName
    harmless: tuple[Shift, ...]
    bound: float
    shift: Decimal
    seen: dict[str, float]
    unseen: dict[str, float]
    unmeasured: tuple[str, ...]

    @property
    def limit(self) -> float:
        """The limit as a value of the metric."""
        return float(self.shift if METRICS[self.metric].direction == "max" else 1 - self.shift)

    @property
    def can_fail(self) -> bool:
        """Whether some value is on the bad side of the limit."""
        return METRICS[self.metric].can_limit(self.limit)


def derive_limits(
    harmless: Sequence[Comparison], damaged: Sequence[Comparison], rate: float
) -> tuple[list[DerivedLimit], int]:
    """Derive a limit for each metric with a harmless value.

    Returns the limits, and the number of tests that share the false-alarm rate: one for each metric and layer.
    """
    both = [*harmless, *damaged]
    measured = {metric.name: shifts for metric in METRICS.values() if (shifts := shifts_of(harmless, metric.name))}
    tests = sum(len({shift.layer for shift in shifts}) for shifts in measured.values())
    return [
        _derive_limit(metric, shifts, shifts_of(damaged, metric), rate / tests, unmeasured_controls(both, metric))
        for metric, shifts in measured.items()
    ], tests


def harmless_bound(harmless: Sequence[Shift], share: float) -> float:
    """Bound the shift that a harmless model exceeds with probability `share`.

    The model is measured on fresh prompts; the probability is approximate. The bound is the largest of
    value + z * sqrt(2) * error over the harmless models, z the one-sided normal quantile. The factor sqrt(2) is there
    because two samples of prompts vary: the one that the limit is derived from and the one that it will judge. A value
    below 0 (an accuracy that rose) counts as 0. Where nothing moved in any model there is no error to use: of n prompts
    (or neurons) none moved, so at most 1 - share ** (1 / n) of all do, the exact binomial bound.
    """
    quantile = two_sided_quantile(1 - 2 * share)
    bound = max(max(shift.value, 0.0) + quantile * math.sqrt(2) * shift.error for shift in harmless)
    return bound or -math.expm1(math.log(share) / max(shift.units for shift in harmless))


def largest_by_control(shifts: Iterable[Shift]) -> dict[str, float]:
    """Find each control's largest shift over its layers, the smallest first."""
    largest: dict[str, float] = {}
    for shift in shifts:
        largest[shift.control] = max(shift.value, largest.get(shift.control, shift.value))
    return dict(sorted(largest.items(), key=lambda item: item[1]))


def limit_between(bound: float, damage: float | None) -> Decimal:
    """Take the geometric mean of a bound and a damage beyond it.

    Without damage it is the bound. It is rounded away from the bound to two significant digits, or to more where two
    would reach the damage.
    """
    exact = bound if damage is None else math.sqrt(bound * damage)
    rounded = (_round_up(exact, digits) for digits in range(DIGITS, 18))
    return next((limit for limit in rounded if damage is None or float(limit) < damage), Decimal(exact))


def _derive_limit(
    metric: MetricName, harmless: Sequence[Shift], damaged: Sequence[Shift], share: float, missing: Sequence[str]
) -> DerivedLimit:
    bound = harmless_bound(harmless, share)
    seen = largest_by_control(shift for shift in damaged if shift.low > bound)
    return DerivedLimit(
        metric=metric,
        harmless=tuple(harmless),
        bound=bound,
        shift=limit_between(bound, min(seen.values(), default=None)),
        seen=seen,
        unseen=largest_by_control(shift for shift in damaged if shift.control not in seen),
        unmeasured=tuple(missing),
    )


def _round_up(value: float, digits: int) -> Decimal:
    exact = Decimal(repr(float(value)))  # its shortest spelling: 0.02, not 0.0200000000000000004
    return exact.quantize(Decimal(1).scaleb(exact.adjusted() - digits + 1), rounding=ROUND_CEILING)
