"""Router agreement against sets of Python."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantcheck.analyses.routing import router_agreement


@given(st.integers(1, 6), st.integers(0, 20), st.integers(0, 2**32 - 1))
def test_it_is_the_jaccard_index_of_sets(k, tokens, seed):
    """In any order."""
    random = np.random.default_rng(seed)
    draw = random.random((2, tokens, 8)).argsort(axis=2)[..., :k].astype(np.int16)
    expected = [len({*a} & {*b}) / len({*a} | {*b}) for a, b in zip(*draw.tolist(), strict=True)]
    assert router_agreement(*draw).tolist() == pytest.approx(expected)


def test_other_shapes_are_refused():
    """Tokens or experts that one model lacks."""
    with pytest.raises(ValueError, match=r"got \(3, 2\) and \(2, 2\)"):
        router_agreement(np.zeros((3, 2), np.int16), np.zeros((2, 2), np.int16))
