"""Intervals over tokens: prompts are the sample, however many tokens each has."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantcheck.analyses.clustered import clustered_quantile, clustered_share, mean_by_prompt
from pytest_quantcheck.analyses.resampling import Interval, share

LENGTHS = st.lists(st.integers(1, 9), min_size=2, max_size=30).map(np.array)


def drawn(random, prompts, *, alike):
    """Normal values of tokens, `alike` of whose variance is their prompt's, and numbers of tokens."""
    lengths = random.integers(1, 17, prompts)
    own = np.repeat(random.standard_normal(prompts), lengths)
    return math.sqrt(alike) * own + math.sqrt(1 - alike) * random.standard_normal(lengths.sum()), lengths


@given(LENGTHS, st.integers(0, 9))
def test_mean_of_prompts_is_that_of_tokens(lengths, seed):
    """Whatever their lengths; equal values have no spread."""
    values = np.random.default_rng(seed).standard_normal(lengths.sum())
    assert mean_by_prompt(values, lengths).mean() == pytest.approx(values.mean())
    assert np.ptp(mean_by_prompt(np.ones_like(values), lengths)) < 1e-12


def test_spread_of_prompts_is_the_error_of_the_mean():
    """Against the spread over many samples."""
    random = np.random.default_rng(0)
    samples = [drawn(random, 100, alike=0.3) for _ in range(1000)]
    errors = [np.std(mean_by_prompt(*sample)) / 10 for sample in samples]
    assert np.std([values.mean() for values, _ in samples]) == pytest.approx(np.mean(errors), rel=0.1)


def test_one_token_each_is_the_exact_binomial_interval():
    """A little wider: the error is estimated."""
    random = np.random.default_rng(1)
    for n in (20, 200):
        hits = random.random(n) < 0.8
        mine, exact = clustered_share(hits, np.ones(n, dtype=int)), share(int(hits.sum()), n)
        assert mine.low <= exact.low
        assert exact.high <= mine.high
        assert mine.high - mine.low < 1.1 * (exact.high - exact.low)


def test_tokens_that_agree_count_as_one():
    """Ten equal tokens of each prompt say no more than one."""
    hits = np.random.default_rng(2).random(100) < 0.7
    one, ten = (clustered_share(np.repeat(hits, n), np.full(100, n)) for n in (1, 10))
    assert one.low == pytest.approx(ten.low)
    assert one.high == pytest.approx(ten.high)
    assert clustered_share(np.ones(640, dtype=bool), np.full(64, 10)).low == pytest.approx(share(64, 64).low)


@pytest.mark.parametrize("alike", [0.0, 0.3, 0.6])
def test_intervals_hold_the_truth(alike):
    """Of a share and of the 99th percentile at 64 prompts: nine times in ten at least, of 95 in a hundred promised."""
    random, held = np.random.default_rng(3), {"share": 0, "p99": 0}
    for _ in range(300):
        values, lengths = drawn(random, 64, alike=alike)
        interval = clustered_share(values < 1.645, lengths)
        held["share"] += interval.low <= 0.95 <= interval.high
        _, interval = clustered_quantile(values, lengths, 0.99)
        held["p99"] += interval.low <= 2.326 <= interval.high
    assert min(held.values()) > 0.9 * 300


@given(LENGTHS, st.integers(0, 9), st.sampled_from([0.5, 0.9, 0.99]))
def test_quantile_is_within_its_interval(lengths, seed, probability):
    """And it and its interval go along with any growing function."""
    values = np.random.default_rng(seed).standard_normal(lengths.sum())
    value, interval = clustered_quantile(values, lengths, probability)
    assert interval.low <= value <= interval.high
    assert np.mean(values <= value) >= probability
    assert np.mean(values < value) < probability
    grown, other = clustered_quantile(np.exp(values), lengths, probability)
    assert grown == pytest.approx(math.exp(value))
    assert other.low == pytest.approx(math.exp(interval.low))
    assert other.high == pytest.approx(math.exp(interval.high))


def test_largest_value_bounds_nothing():
    """Few tokens say nothing of the largest hundredth."""
    _, interval = clustered_quantile(np.arange(20.0), np.full(10, 2), 0.99)
    assert math.isinf(interval.high)
    assert clustered_quantile(np.ones(20), np.full(10, 2), 0.99) == (1.0, Interval(1.0, 1.0))
    with pytest.raises(ValueError, match="two prompts or more"):
        clustered_share(np.ones(5, dtype=bool), np.array([5]))
