"""Intervals: draws, percentiles, folding, the grouped jackknife and the prompts that would settle a verdict."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pytest_quantcheck.analyses.calibration import adaptive_calibration_error, resampled_ace
from pytest_quantcheck.analyses.resampling import (
    Interval,
    bootstrap_counts,
    fold,
    grouped_jackknife,
    paired_bootstrap,
    prompts_to_settle,
)

fresh = settings(max_examples=60)
finite = st.floats(-1e6, 1e6)


def mean_of(values):
    """Return the statistic that is the mean of per-prompt values."""
    return lambda counts: counts @ values / len(values)


@pytest.mark.parametrize("chunk", [1, 3, 50, 1000, None])
def test_draws_depend_on_the_seed_and_not_on_the_chunk(chunk):
    """The same seed gives the same draws however many are made at a time, another seed gives others."""
    whole = np.concatenate(list(bootstrap_counts(37, 50, 1, 50)))
    np.testing.assert_array_equal(np.concatenate(list(bootstrap_counts(37, 50, 1, chunk))), whole)
    assert not np.array_equal(np.concatenate(list(bootstrap_counts(37, 50, 2, chunk))), whole)


def test_a_draw_has_as_many_prompts_as_there_are():
    """Multiplicities are whole, not negative, and add up to n in every draw."""
    counts = np.concatenate(list(bootstrap_counts(23, 200, 0)))
    assert counts.shape == (200, 23)
    assert np.all((counts >= 0) & (counts == counts.round()))
    assert np.all(counts.sum(axis=1) == 23)


def test_every_prompt_is_drawn_equally_often():
    """Multiplicities have mean 1 and variance 1 - 1/n; bounds are four standard errors."""
    counts = np.concatenate(list(bootstrap_counts(20, 20_000, 3)))
    assert np.all(np.abs(counts.mean(axis=0) - 1) < 4 * np.sqrt(0.95 / 20_000))
    assert counts.var() == pytest.approx(0.95, abs=0.02)


def test_memory_is_bounded_by_chunks():
    """Many prompts are drawn a few draws at a time."""
    assert len(next(bootstrap_counts(200_000, 2000, 0))) < 10


def test_interval_holds_the_percentiles_of_the_drawn_statistics():
    """The interval is the percentiles of the statistic over explicitly resampled prompts."""
    generator = np.random.default_rng(5)
    first, second = generator.random(60), generator.random(60)
    right, wrong = generator.random(60) < first, generator.random(60) < second
    drawn = []
    for row in np.concatenate(list(bootstrap_counts(60, 200, 9))).astype(int):
        rows = np.repeat(np.arange(60), row)
        before = adaptive_calibration_error(first[rows], right[rows])
        drawn.append(adaptive_calibration_error(second[rows], wrong[rows]) - before)
    obtained = paired_bootstrap(
        lambda counts: resampled_ace(second, wrong, counts) - resampled_ace(first, right, counts),
        60,
        draws=200,
        confidence=0.9,
        seed=9,
    )
    assert (obtained.low, obtained.high) == pytest.approx(tuple(np.quantile(drawn, [0.05, 0.95])), abs=1e-12)


def test_bootstrap_of_a_mean_has_the_textbook_width():
    """For 400 values the percentile interval is the normal one, to the noise of 4,000 draws (5 %)."""
    values = np.random.default_rng(0).normal(size=400)
    obtained = paired_bootstrap(mean_of(values), 400, draws=4000, confidence=0.95, seed=1)
    assert obtained.high - obtained.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.05)


def test_bootstrap_covers_the_truth_as_often_as_it_says():
    """Of 300 samples of 80, a 90 % interval of the mean covers in 90 %, less 1 % for percentiles, give or take 5 %."""
    samples = np.random.default_rng(2).normal(size=(300, 80))
    intervals = [paired_bootstrap(mean_of(x), 80, draws=300, confidence=0.9, seed=i) for i, x in enumerate(samples)]
    assert np.mean([i.low <= 0 <= i.high for i in intervals]) == pytest.approx(0.89, abs=0.05)


def test_equal_models_have_an_interval_without_width():
    """Both models see the same draw, so a difference that is zero on every prompt is zero in every draw."""
    assert paired_bootstrap(mean_of(np.zeros(30)), 30, draws=100, confidence=0.95, seed=0) == Interval(0.0, 0.0)


def test_a_statistic_that_is_not_finite_is_refused():
    """NaN never becomes an interval."""
    with pytest.raises(ValueError, match="finite statistic for every draw, got nan"):
        paired_bootstrap(mean_of(np.array([1.0, np.nan])), 2, draws=10, confidence=0.95, seed=0)


@pytest.mark.parametrize("confidence", [0, 1, 95, float("nan")])
def test_confidence_is_a_probability(confidence):
    """A percentage, or a confidence that promises all or nothing, is refused."""
    with pytest.raises(ValueError, match="between 0 and 1"):
        paired_bootstrap(mean_of(np.ones(5)), 5, confidence=confidence)
    with pytest.raises(ValueError, match="between 0 and 1"):
        grouped_jackknife([1, 2], 1.5, confidence=confidence)


@pytest.mark.parametrize(("n", "draws"), [(0, 10), (10, 0)])
def test_nothing_to_draw_is_refused(n, draws):
    """No prompts or no draws give no interval."""
    with pytest.raises(ValueError, match="at least one prompt and one draw"):
        next(bootstrap_counts(n, draws, 0))


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
        (0.03, 0.01, 0.05, 0.04, 400),  # half width 0.02 must become 0.01
        (0.03, 0.01, 0.09, 0.04, 3600),  # only the side that faces the limit counts
        (0.05, 0.03, 0.90, 0.04, 400),
        (0.03, 0.01, 0.05, 0.03, None),  # the value is the limit
        (0.03, 0.02, 0.035, 0.04, 100),  # settled already
        (0.03, 0.03, 0.03, 0.04, 100),  # no width
        (1e-200, -1.0, 1.0, 0.0, None),  # beyond counting
    ],
)
def test_prompts_to_settle_by_hand(value, low, high, limit, expected):
    """The half width shrinks with the square root of the number of prompts."""
    assert prompts_to_settle(value, low, high, limit, 100) == expected
