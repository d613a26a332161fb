"""Reference x candidate -> estimates: what moved, and how sure that is."""

from pytest_quantcheck.comparing.comparison import compare, refuse_identical
from pytest_quantcheck.comparing.intervals import Sampling

__all__ = ["Sampling", "compare", "refuse_identical"]
