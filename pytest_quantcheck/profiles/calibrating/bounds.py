"""How far harmless models may move a metric by chance, and where between them and damage a limit goes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from decimal import ROUND_CEILING, Decimal
from statistics import NormalDist

from pytest_quantcheck.profiles.calibrating.shifts import Shift

DIGITS = 2
"""Significant digits of a limit."""


def harmless_bound(harmless: Sequence[Shift], share: float) -> float:
    """The shift that a harmless model, measured on fresh prompts, exceeds with a probability of about `share`.

    The largest of value + z * sqrt(2) * error over the harmless models, z the one-sided normal quantile: of two samples
    of prompts, the one this limit is made with and the one it will judge, each has its own chance. A value below 0 (an
    accuracy that rose) counts as 0. Where nothing moved in any of them there is no error to go by: of n prompts (or
    neurons) none moved, so at most 1 - share ** (1 / n) of all do, the exact binomial bound.
    """
    quantile = NormalDist().inv_cdf(1 - share)
    bound = max(max(shift.value, 0.0) + quantile * math.sqrt(2) * shift.error for shift in harmless)
    return bound or -math.expm1(math.log(share) / max(shift.units for shift in harmless))


def largest(shifts: Iterable[Shift]) -> dict[str, float]:
    """Each control's largest shift over its layers, the smallest first."""
    found: dict[str, float] = {}
    for shift in shifts:
        found[shift.control] = max(shift.value, found.get(shift.control, shift.value))
    return dict(sorted(found.items(), key=lambda item: item[1]))


def limit_between(bound: float, damage: float | None) -> Decimal:
    """The geometric mean of a bound and a damage beyond it, or the bound alone where there is no damage.

    It is rounded to two significant digits, away from the bound; to more where two would reach the damage.
    """
    exact = bound if damage is None else math.sqrt(bound * damage)
    rounded = (_round_up(exact, digits) for digits in range(DIGITS, 18))
    return next((limit for limit in rounded if damage is None or float(limit) < damage), Decimal(exact))


def _round_up(value: float, digits: int) -> Decimal:
    exact = Decimal(repr(float(value)))  # its shortest spelling: 0.02, not 0.0200000000000000004
    return exact.quantize(Decimal(1).scaleb(exact.adjusted() - digits + 1), rounding=ROUND_CEILING)
