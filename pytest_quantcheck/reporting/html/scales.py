"""Drawing of a value, its interval and its limit to scale."""

from typing import NamedTuple

from pytest_quantcheck.records import Estimate, Verdict
from pytest_quantcheck.reporting.wording import bound, interval_text, number

WIDTH, MARGIN = 240.0, 8.0
"""Width and margin of the drawing, in its own units; only ends of symbols reach into the margin."""

_ROOM = 1.15


class Scale(NamedTuple):
    """Positions of the drawing's parts, in its units from its left edge.

    `bad` is the start and width of the failing side, `label` the text alternative.
    """

    value: float
    low: float
    high: float
    zero: float
    limit: float | None
    limit_text: str
    bad: tuple[float, float] | None
    label: str


def scale_of(estimate: Estimate, verdict: Verdict | None) -> Scale | None:
    """Scale one estimate from 0 or its lowest number; None without a value."""
    if estimate.value is None:
        return None
    low, high = (estimate.value if end is None else end for end in (estimate.low, estimate.high))
    limit = verdict.limit if verdict else None
    first, last = min(0.0, low, estimate.value), max(high, estimate.value, limit or 0.0)
    step = (WIDTH - 2 * MARGIN) / (((last - first) or 1e-9) * _ROOM)

    def place(number: float) -> float:
        return round(MARGIN + (number - first) * step, 2)

    at = None if limit is None else place(limit)
    return Scale(
        value=place(estimate.value),
        low=place(low),
        high=place(high),
        zero=place(0.0),
        limit=at,
        limit_text="" if limit is None else number(limit).rstrip("0").rstrip(".") or "0",
        bad=_bad(verdict, at),
        label=_scale_label(estimate, verdict),
    )


def _bad(verdict: Verdict | None, at: float | None) -> tuple[float, float] | None:
    if verdict is None or at is None:
        return None
    return (at, round(WIDTH - at, 2)) if verdict.direction == "max" else (0.0, at)


def _scale_label(estimate: Estimate, verdict: Verdict | None) -> str:
    assert estimate.value is not None
    limit = f"limit {bound(verdict)}" if verdict else "no limit"
    return f"value {number(estimate.value)}, {interval_text(estimate)}, {limit}"
