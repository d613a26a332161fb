"""Reference x candidate -> estimates: what moved, and how sure that is."""

from pytest_quantcheck.comparing.comparison import compare, refuse_identical
from pytest_quantcheck.comparing.intervals import IntervalSettings

__all__ = ["IntervalSettings", "compare", "refuse_identical"]
