"""Intervals: shares, means, halves, folding, the grouped jackknife, and the prompts that settle a verdict."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pytest_quantcheck.analyses.draws import bootstrap_counts
from pytest_quantcheck.analyses.resampling import (
    Interval,
    bounded_mean,
    fold,
    grouped_jackknife,
    half_sampled,
    jackknife_bias,
    paired_shares,
    prompts_to_settle,
    share,
    studentised_bootstrap,
)

fresh = settings(max_examples=60)
finite = st.floats(-1e6, 1e6)


@pytest.mark.parametrize(("count", "n"), [(0, 1), (0, 64), (3, 64), (64, 64), (200, 512)])
def test_an_exact_share_leaves_either_tail_its_half(count, n):
    """At the lower end so many or more have probability 2.5 %, at the upper end so many or fewer."""
    found = share(count, n)
    assert found.low == 0 if count == 0 else stats.binom.sf(count - 1, n, found.low) == pytest.approx(0.025)
    assert found.high == 1 if count == n else stats.binom.cdf(count, n, found.high) == pytest.approx(0.025)


@pytest.mark.parametrize(("lost", "won", "n"), [(0, 0, 32), (5, 2, 64), (60, 0, 64)])
def test_paired_shares_follow_bonett_and_price(lost, won, n):
    """A Wald interval of the mean of n + 2 prompts, one of them lost and one won beside what was seen."""
    change = np.array([1] * (lost + 1) + [-1] * (won + 1) + [0] * (n - lost - won))
    low, high = stats.norm.interval(0.95, change.mean(), change.std() / np.sqrt(n + 2))
    assert paired_shares(lost, won, n) == Interval(pytest.approx(low), pytest.approx(min(high, 1)))


def test_the_studentised_bootstrap_is_a_loop_over_draws():
    """Each draw's prompts written out, its mean in its own standard errors; equal but for rounding."""
    values = np.random.default_rng(0).lognormal(size=60)
    ratios = []
    for row in np.concatenate(list(bootstrap_counts(60, 300, 4))).astype(int):
        drawn = np.repeat(values, row)
        ratios.append((drawn.mean() - values.mean()) / max(stats.sem(drawn, ddof=0), stats.sem(values, ddof=0) / 3))
    low, high = values.mean() - np.quantile(ratios, [0.975, 0.025]) * stats.sem(values, ddof=0)
    found = studentised_bootstrap(values, draws=300, seed=4)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-12)


def test_symmetric_values_have_the_textbook_interval():
    """For 400 normal values it is Student's, to the noise of 4,000 draws (5 %)."""
    values = np.random.default_rng(0).normal(size=400)
    found = studentised_bootstrap(values, draws=4000, seed=1)
    low, high = stats.t.interval(0.95, 399, values.mean(), stats.sem(values))
    assert found.high - found.low == pytest.approx(high - low, rel=0.05)


def test_one_huge_value_does_not_make_everything_possible():
    """A third of the draws miss it and have no spread to speak of: the mean is at most a few times what was found."""
    values = np.full(64, 0.001)
    values[7] = 10
    found = studentised_bootstrap(values)
    assert 2 * values.mean() < found.high < 5 * values.mean()


@pytest.mark.parametrize(("count", "n"), [(0, 16), (3, 16), (30, 64), (64, 64)])
def test_the_mean_of_zeros_and_ones_has_the_exact_interval(count, n):
    """Weighted with one prompt more, zeros and ones have Clopper and Pearson's interval, to the noise of draws."""
    found, exact = bounded_mean(np.arange(n) < count, draws=20_000), share(count, n)
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=0.01)


def test_a_range_is_a_scale():
    """Values from -1 to 1 are shares stretched by two."""
    values = np.random.default_rng(0).random(40)
    one, other = bounded_mean(values), bounded_mean(2 * values - 1, least=-1, most=1)
    assert (other.low, other.high) == pytest.approx((2 * one.low - 1, 2 * one.high - 1))


def test_values_out_of_range_are_refused():
    """A share above one is none."""
    with pytest.raises(ValueError, match=r"values from 0\.0 to 1\.0, got some from 0\.5 to 1\.5"):
        bounded_mean([0.5, 1.5])


def test_halves_of_a_mean_give_its_textbook_interval():
    """A mean has no bias, and random halves of 400 prompts spread as much as new samples do (5 %)."""
    values = np.random.default_rng(0).normal(size=401)
    found = half_sampled(lambda counts: counts @ values / 200, values.mean(), 401, draws=4000)
    assert found.high - found.low == pytest.approx(2 * 1.96 * stats.sem(values), rel=0.05)


def test_bias_lengthens_the_interval_to_its_side():
    """The size of a mean of noise: half the prompts have 1.41 times as much, so that all of it may be noise."""
    values = np.random.default_rng(3).normal(size=(400, 30))
    found = half_sampled(
        lambda counts: np.abs(counts @ values / 200).mean(axis=1), np.abs(values.mean(axis=0)).mean(), 400
    )
    assert found.low < 0.01 < np.abs(values.mean(axis=0)).mean() <= found.high


def test_the_jackknife_sees_what_prompts_add():
    """The variance with n below is short by 1 / n of it: to the jackknife that is all of its bias."""
    values = np.random.default_rng(2).normal(size=30)
    left_out = [np.delete(values, i).var() for i in range(30)]
    assert values.var() - jackknife_bias(left_out, values.var()) == pytest.approx(values.var(ddof=1))


@pytest.mark.parametrize(
    "found",
    [
        studentised_bootstrap(np.full(30, 0.25)),
        half_sampled(lambda counts: counts @ np.zeros(30) + 0.25, 0.25, 30, draws=100),
    ],
)
def test_what_never_varies_has_no_width(found):
    """Models that are equal bit for bit on every prompt."""
    assert found == Interval(0.25, 0.25)


def test_a_statistic_that_is_not_finite_is_refused():
    """NaN never becomes an interval."""
    values = np.array([1.0, np.nan])
    with pytest.raises(ValueError, match="Expected finite values for every prompt or draw, got nan"):
        half_sampled(lambda counts: counts @ values, 0.0, 2, draws=10)
    for interval in (studentised_bootstrap, bounded_mean):
        with pytest.raises(ValueError, match="Expected finite values"):
            interval(values)


@pytest.mark.parametrize("confidence", [0, 1, 95, float("nan")])
def test_confidence_is_a_probability(confidence):
    """A percentage, or a confidence that promises all or nothing, is refused."""
    for interval in (
        lambda: share(1, 5, confidence=confidence),
        lambda: paired_shares(1, 0, 5, confidence=confidence),
        lambda: studentised_bootstrap(np.ones(5), confidence=confidence),
        lambda: bounded_mean(np.ones(5), confidence=confidence),
        lambda: half_sampled(lambda counts: counts.sum(axis=1), 5.0, 5, confidence=confidence),
        lambda: grouped_jackknife([1, 2], 1.5, confidence=confidence),
    ):
        with pytest.raises(ValueError, match="between 0 and 1"):
            interval()


@fresh
@given(finite, finite, st.floats(0, 1))
def test_folding_holds_the_absolute_value_of_everything_inside(first, second, where):
    """Every x in the interval has its abs(x) in the folded one, whose ends are reached."""
    low, high = sorted((first, second))
    folded = fold(low, high)
    inside = min(max(low + where * (high - low), low), high)
    assert folded.low <= abs(inside) <= folded.high
    assert folded.high in (abs(low), abs(high))
    assert folded.low in (0.0, abs(low), abs(high))


@pytest.mark.parametrize(
    ("ends", "expected"), [((-3, 1), (0, 3)), ((-3, -1), (1, 3)), ((1, 3), (1, 3)), ((0, 2), (0, 2)), ((0, 0), (0, 0))]
)
def test_folding_by_hand(ends, expected):
    """The fold starts at 0 exactly when 0 is inside."""
    assert fold(*ends) == Interval(*expected)


def busing_variance(left_out, value, sizes):
    """Equation of the delete-m_j jackknife, written out as in Busing et al. 1999."""
    n, g = sum(sizes), len(sizes)
    centre = g * value - sum((1 - m / n) * t for m, t in zip(sizes, left_out, strict=True))
    terms = []
    for m, t in zip(sizes, left_out, strict=True):
        h = n / m
        terms.append((h * value - (h - 1) * t - centre) ** 2 / (h - 1))
    return sum(terms) / g


@fresh
@given(st.lists(st.tuples(st.floats(-10, 10), st.integers(1, 50)), min_size=2, max_size=12), st.floats(-10, 10))
def test_unequal_groups_follow_busing(groups, value):
    """With sizes the standard error is that of the delete-m_j jackknife."""
    left_out, sizes = zip(*groups, strict=True)
    obtained = grouped_jackknife(left_out, value, confidence=0.95, sizes=sizes)
    half = stats.t.ppf(0.975, len(sizes) - 1) * busing_variance(left_out, value, sizes) ** 0.5
    assert obtained.high - value == pytest.approx(half, rel=1e-9, abs=1e-9)
    assert value - obtained.low == pytest.approx(half, rel=1e-9, abs=1e-9)


@fresh
@given(st.lists(st.floats(-10, 10), min_size=2, max_size=20), st.floats(-10, 10))
def test_equal_groups_follow_the_plain_formula(left_out, value):
    """Without sizes se^2 is (g - 1) / g times the summed squares around the mean of the left-out values."""
    g = len(left_out)
    se = np.sqrt((g - 1) / g * np.sum((np.array(left_out) - np.mean(left_out)) ** 2))
    obtained = grouped_jackknife(left_out, value, confidence=0.9)
    half = stats.t.ppf(0.95, g - 1) * se
    assert (obtained.high - obtained.low) / 2 == pytest.approx(half, rel=1e-9, abs=1e-9)


def test_jackknife_of_a_mean_is_the_textbook_interval():
    """One prompt a group: Student's interval of a mean, s / sqrt(n), exactly."""
    values = np.random.default_rng(4).normal(size=17)
    left_out = (values.sum() - values) / 16
    obtained = grouped_jackknife(left_out, values.mean(), confidence=0.95)
    expected = stats.t.interval(0.95, 16, loc=values.mean(), scale=stats.sem(values))
    assert (obtained.low, obtained.high) == pytest.approx(expected, rel=1e-12)


def test_jackknife_covers_the_truth_as_often_as_it_says():
    """Of 2,000 ratios of means in 16 groups of unequal size, a 90 % interval covers 90 %, give or take 3 %."""
    generator = np.random.default_rng(7)
    sizes = generator.integers(5, 40, 16)
    group = np.repeat(np.arange(16), sizes)
    hits = 0
    for _ in range(2000):
        x, y = generator.normal(3, 1, len(group)), generator.normal(2, 1, len(group))
        top, bottom = np.bincount(group, x), np.bincount(group, y)
        left_out = (x.sum() - top) / (y.sum() - bottom)
        interval = grouped_jackknife(left_out, x.sum() / y.sum(), confidence=0.9, sizes=sizes)
        hits += interval.low <= 1.5 <= interval.high
    assert hits / 2000 == pytest.approx(0.9, abs=0.03)


def test_empty_groups_are_dropped():
    """A group without prompts says nothing, and takes its degree of freedom with it."""
    obtained = grouped_jackknife([1.0, 2.0, 3.0, 2.0], 2.0, sizes=[5, 5, 5, 0])
    assert obtained == grouped_jackknife([1.0, 2.0, 3.0], 2.0, sizes=[5, 5, 5])


@pytest.mark.parametrize(
    ("left_out", "sizes", "message"),
    [
        ([1.0], None, "at least two groups"),
        ([1.0, 2.0], [3, 0], "at least two groups"),
        ([1.0, 2.0], [3], "one size for each group"),
        ([1.0, float("nan")], None, "finite values"),
    ],
)
def test_jackknives_it_refuses(left_out, sizes, message):
    """Too few groups, shapes that differ and values that are not finite give no interval."""
    with pytest.raises(ValueError, match=message):
        grouped_jackknife(left_out, 1.0, sizes=sizes)


@pytest.mark.parametrize(
    ("value", "low", "high", "limit", "expected"),
    [
        (0.03, 0.01, 0.05, 0.04, 818),  # half width 0.02 must become 0.01: four times, and 2.04 for power
        (0.03, 0.01, 0.09, 0.04, 7356),  # only the side that faces the limit counts
        (0.05, 0.03, 0.90, 0.04, 818),
        (0.03, 0.01, 0.05, 0.03, None),  # the value is the limit
        (0.03, 0.02, 0.035, 0.04, 100),  # settled already
        (0.03, 0.03, 0.03, 0.04, 100),  # no width
        (1e-200, -1.0, 1.0, 0.0, None),  # beyond counting
    ],
)
def test_prompts_to_settle_by_hand(value, low, high, limit, expected):
    """The half width shrinks with the square root of the number of prompts, and the value varies as well."""
    assert prompts_to_settle(value, low, high, limit, 100) == expected


def test_what_prompts_do_not_narrow_is_taken_off():
    """Of a half width of 0.05, 0.03 stay: 0.04 must become what is left of a distance of 0.05."""
    assert prompts_to_settle(0.0, -0.05, 0.05, 0.04, 100, floor=0.03) == 468
    assert prompts_to_settle(0.0, -0.05, 0.05, 0.02, 100, floor=0.03) is None


@pytest.mark.parametrize(("confidence", "times"), [(0.8, 2.745), (0.95, 2.043), (0.99, 1.760)])
def test_the_number_is_that_of_a_test_of_power(confidence, times):
    """(z of the level + z of 0.8)^2, where z^2 would be enough for every second sample."""
    levels = stats.norm.ppf([(1 + confidence) / 2, 0.8])
    assert (levels.sum() / levels[0]) ** 2 == pytest.approx(times, abs=1e-3)
    found = prompts_to_settle(0.0, -0.2, 0.2, 0.1, 10_000, confidence=confidence)
    assert found == pytest.approx(40_000 * times, rel=1e-3)
