"""The study of the support, reduced: more tokens keep more of the divergence, and never more than all."""

from itertools import pairwise

import pytest

from pytest_quantcheck.measuring import scored
from pytest_quantcheck.prompts import read_prompts
from tests.studies.support import kept_by

pytestmark = pytest.mark.ci


def test_larger_supports_keep_more():
    """On the built-in model 64 tokens keep nearly all."""
    found = list(kept_by("builtin", read_prompts("builtin", samples=24), ["nf4"], (1, scored.SUPPORT, 2**20)))
    assert all(one.of_mean <= other.of_mean for one, other in pairwise(found))
    assert found[0].of_mean < found[1].of_mean
    assert found[1].of_mean > 0.99
    assert found[2].of_mean == pytest.approx(1)
