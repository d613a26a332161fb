"""What may stand as a metric and as its limit: one rule for the command line and for profiles."""

import difflib
import math
from collections.abc import Iterable

from pytest_quantcheck.metrics import METRICS, Metric


def nearest(word: str, known: Iterable[str]) -> str:
    """A question that offers the most similar known word, or nothing when none is similar.

    >>> nearest("ace_drfit", ["ace_drift", "flip_rate"])
    " Did you mean 'ace_drift'?"
    """
    found = difflib.get_close_matches(word.lower().replace("-", "_"), list(known), n=1)
    return f" Did you mean {found[0]!r}?" if found else ""


def find_metric(name: str) -> Metric:
    """The metric of that name; `ValueError` lists the known ones and the nearest."""
    if not isinstance(name, str) or name not in METRICS:
        known = ", ".join(METRICS)
        raise ValueError(f"unknown metric {name!r}; known metrics are {known}.{nearest(str(name), METRICS)}")
    return METRICS[name]


def check_limit(metric: Metric, value: float) -> float:
    """Hand back a limit that can decide, as a float.

    `ValueError` when it is no number, NaN, infinite, negative or out of reach.
    """
    if not _finite(value) or value < 0:
        raise ValueError(f"expected a finite limit of at least 0 for {metric.name}, got {value!r:.100}")
    if metric.name == "salient_overlap" and value > 1:
        raise ValueError(f"expected a limit of at most 1 for {metric.name} (an overlap is a share), got {value}")
    return float(value)


def _finite(value: float) -> bool:
    """Also False for what a test's author may hand over in place of a number; True and False are no limits."""
    try:
        return not isinstance(value, bool) and math.isfinite(value)
    except (TypeError, OverflowError):
        return False
