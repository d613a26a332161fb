"""Evidence: what cannot fall or move, given the reference's answers, is named with its reason."""

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantcheck.analyses.reference_evidence import CHANCE, evidence_of
from pytest_quantcheck.records import Answers


def answered(right, token=None):
    """Answers of which `right` (n,) are right, two of them different unless `token` says otherwise."""
    n = len(right)
    token = np.arange(n) % 2 if token is None else np.asarray(token)
    flat = np.zeros((n, 1), dtype=np.float32)
    half = np.full(n, 0.5)
    return Answers(np.arange(n), token, half, np.asarray(right), flat.astype(np.int32), flat, flat[:, 0], exact=True)


def lacking(right, golds, token=None):
    """The metrics that cannot be shown to move."""
    return evidence_of(answered(np.asarray(right, dtype=bool), token), golds, len(golds)).lacking


def tail(k, n, p):
    """The probability of k or more of n, term by term."""
    return sum(comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))


@given(st.integers(10, 60), st.data())
def test_accuracy_needs_more_than_the_commonest_gold_has_by_chance(n, data):
    """The exact tail of the binomial decides, whatever the order of prompts."""
    right, commonest = data.draw(st.integers(0, n)), data.draw(st.integers((n + 1) // 2, n))
    golds = data.draw(st.permutations(["yes"] * commonest + ["no"] * (n - commonest)))
    found = "accuracy_drop" in lacking([i < right for i in range(n)], golds)
    expected = tail(right, n, commonest / n)
    if abs(expected - CHANCE) > 1e-9:  # on the border itself rounding of either sum decides
        assert found == (expected > CHANCE)


@pytest.mark.parametrize(
    ("right", "golds", "token", "expected"),
    [
        ([False] * 64, ["banana"] * 64, None, {"accuracy_drop", "ace_drift"}),
        ([True] * 64, ["yes", "no"] * 32, None, {"ace_drift"}),
        ([True, False] * 32, ["yes", "no"] * 32, [7] * 64, {"accuracy_drop", "flip_rate"}),
        ([True] * 60 + [False] * 4, ["yes", "no"] * 32, None, set()),
        ([True] * 60 + [False] * 4, ["yes"] * 64, None, {"accuracy_drop"}),
    ],
    ids=["never right", "always right", "one answer", "sound", "one gold"],
)
def test_what_cannot_move_is_named(right, golds, token, expected):
    """No other metric is, and each with its reason."""
    found = lacking(right, golds, token)
    assert found.keys() == expected
    assert all(found.values())


def test_prompts_left_out_count_for_the_set_alone():
    """Golds of repeated prompts are no evidence; golds that differ in capitals are one."""
    answers = answered(np.array([True] * 9 + [False]))
    found = evidence_of(answers, ["Yes"] * 3 + ["yes"] * 3 + ["no"] * 4 + ["no"] * 20, 500)
    assert (found.prompts, found.available) == (30, 500)
    assert (found.inputs, found.golds, found.commonest, found.share) == (10, 2, "Yes", 0.6)
