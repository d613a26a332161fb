"""How far chance moves a metric, and where a limit is set."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pytest_quantcheck.profiles.calibrating.derivation import harmless_bound, largest_by_control, limit_between
from pytest_quantcheck.profiles.calibrating.shifts import Shift, metric_value, shifts_of, unmeasured_controls

Z = NormalDist().inv_cdf(0.975)


def shift(value, error=0.0, *, control="null", layer=None, low=None, units=100):
    """One control's shift."""
    return Shift(control, layer, value, value if low is None else low, error, units, 100)


def test_the_bound_is_the_furthest_of_value_and_chance():
    """The control that goes furthest with its error decides, not the one with the largest value."""
    z = NormalDist().inv_cdf(0.99) * math.sqrt(2)
    obtained = harmless_bound([shift(0.03), shift(0.01, 0.02)], 0.01)
    assert obtained == pytest.approx(0.01 + z * 0.02)


def test_an_improvement_counts_as_no_change():
    """An accuracy that rose by chance in the controls does not promise that it rises again."""
    assert harmless_bound([shift(-0.1, 0.01)], 0.01) == harmless_bound([shift(0.0, 0.01)], 0.01)


def test_where_nothing_moved_the_bound_is_the_exact_one_for_none_of_n():
    """With none of n moved, a share of 1 - rate ** (1 / n) would have shown itself but for that rate."""
    bound = harmless_bound([shift(0.0, units=100), shift(0.0, units=600)], 0.001)
    assert (1 - bound) ** 600 == pytest.approx(0.001)


@pytest.mark.parametrize("n_tests", [1, pytest.param(10, marks=pytest.mark.ci)])
def test_the_false_alarm_rate_is_the_one_asked_for(n_tests):
    """Limits from one sample of prompts fail fresh samples of the same harmless model as often as stated."""
    rate, runs, error = 0.05, 4000, 0.01
    random = np.random.default_rng(0)
    ours, fresh = (np.abs(0.1 + error * random.standard_normal((runs, n_tests))) for _ in range(2))
    bounds = [[harmless_bound([shift(value, error)], rate / n_tests) for value in row] for row in ours]
    obtained = (fresh > np.array(bounds)).any(axis=1).mean()
    deviation = math.sqrt(rate * (1 - rate) / runs)
    assert rate * 0.9 - 4 * deviation < obtained < rate + 4 * deviation  # Bonferroni is a little below


def test_the_largest_shift_of_each_control_is_kept_smallest_first():
    """Over the layers of a control the worst counts."""
    found = [shift(0.5, control="b", layer=0), shift(0.1, control="a"), shift(0.3, control="b", layer=3)]
    assert list(largest_by_control(found).items()) == [("a", 0.1), ("b", 0.5)]


@pytest.mark.parametrize(
    ("bound", "damage", "limit"),
    [(0.01, 0.04, "0.020"), (0.0123, None, "0.013"), (0.0312, 0.0319, "0.0316"), (1.01, 4.0, "2.1")],
)
def test_a_limit_is_rounded_away_from_the_harmless_side_and_never_reaches_damage(bound, damage, limit):
    """Two digits are enough unless bound and damage are closer than that."""
    assert str(limit_between(bound, damage)) == limit


@given(st.floats(1e-12, 10), st.floats(1e-12, 10))
def test_a_limit_lies_between(bound, damage):
    """No harmless value is on its bad side, and no damage that is seen on its good one."""
    assume(damage > bound * (1 + 1e-9))
    assert bound <= float(limit_between(bound, damage)) < damage
    assert bound <= float(limit_between(bound, None)) <= bound * 1.1 + 1e-15


def test_a_shift_is_large_when_it_is_bad(make):
    """An overlap counts as its distance to 1; its interval is turned round too."""
    found = make.comparison("null", make.estimate("salient_overlap", 0.8, 0.7, 0.85, layer=3))
    (obtained,) = shifts_of([found], "salient_overlap")
    assert obtained[:3] == ("null", 3, pytest.approx(0.2))
    assert obtained.low == pytest.approx(0.15)
    assert obtained.error == pytest.approx(0.1 / Z)
    assert metric_value("salient_overlap", obtained.value) == 0.8


def test_the_error_is_that_of_the_side_of_the_limit(make):
    """An interval that ends at 0 is short on the other side; at another confidence it is of another width."""
    found = make.comparison("null", make.estimate("ace_drift", 0.01, 0.0, 0.05, confidence=0.8))
    (obtained,) = shifts_of([found], "ace_drift")
    assert obtained.error == pytest.approx(0.04 / NormalDist().inv_cdf(0.9))


def test_dead_neurons_are_counted_in_neurons(make):
    """A share of neurons is no share of prompts."""
    found = make.comparison("null", make.estimate("dead_neuron_churn", 0.0, layer=3, details={"neurons": 1536.0}))
    assert shifts_of([found], "dead_neuron_churn")[0].units == 1536


def test_what_has_no_value_is_no_shift(make):
    """Layers without definition take no part; layers without a value are named."""
    lost = make.estimate("salient_overlap", None, layer=3, reason="not converged")
    undefined = make.estimate("salient_overlap", None, layer=0, applicable=False)
    found = make.comparison("null", undefined, lost), make.comparison("other", undefined)
    assert shifts_of(found, "salient_overlap") == []
    assert unmeasured_controls(found, "salient_overlap") == ["null"]


def test_controls_of_several_prompt_sets_are_told_apart(make):
    """With more than one prompt set, a control is named with its own."""
    found = [make.comparison("null", make.estimate("flip_rate", 0.1), prompt_set=name) for name in ("boolq", "toxic")]
    assert [shift.control for shift in shifts_of(found, "flip_rate")] == ["null on boolq", "null on toxic"]
