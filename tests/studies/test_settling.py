"""The number of prompts that an inconclusive verdict names does settle it, and far fewer do not."""

from functools import cache, partial

import numpy as np
import pytest

from pytest_quantcheck.analyses import resampling

FIRST = 64

share, paired_shares, prompts_to_settle = (  # samples repeat: their intervals depend on a few counts alone
    cache(getattr(resampling, name)) for name in ("share", "paired_shares", "prompts_to_settle")
)


def flips(true, n, random):
    """A sample's flip rate and its interval."""
    found = random.binomial(n, true)
    return found / n, share(found, n)


def lost(true, n, random):
    """A sample's accuracy drop and its interval; as many prompts are won as half of those lost."""
    right, wrong, _ = random.multinomial(n, [2 * true, true, 1 - 3 * true])
    return (right - wrong) / n, paired_shares(right, wrong, n)


def named(drawn, limit, random, tries):
    """The numbers named by samples of 64 that do not settle it."""
    for _ in range(tries):
        value, found = drawn(FIRST, random)
        if found.low <= limit <= found.high and (needed := prompts_to_settle(value, *ends(found), limit, FIRST)):
            yield needed


def ends(interval):
    """Both ends."""
    return interval.low, interval.high


def settled(drawn, limit, n, random):
    """Whether a fresh sample of n settles it."""
    _, found = drawn(n, random)
    return not found.low <= limit <= found.high


CASES = [
    pytest.param(partial(flips, 0.12), 0.20, id="fewer flips than the limit"),
    pytest.param(partial(flips, 0.30), 0.20, id="more flips"),
    pytest.param(partial(lost, 0.02), 0.05, id="a smaller drop"),
    pytest.param(partial(lost, 0.10), 0.05, id="a larger drop"),
]


@pytest.mark.parametrize(("drawn", "limit"), CASES)
def test_fresh_samples_of_that_size_settle_it(drawn, limit):
    """Of all samples of 64 that are inconclusive, at least half name a number that settles it when it is measured."""
    random = np.random.default_rng(1)
    hits = [settled(drawn, limit, needed, random) for needed in named(drawn, limit, random, 400)]
    assert len(hits) > 100
    assert np.mean(hits) >= 0.5


@pytest.mark.parametrize(("drawn", "limit"), CASES)
def test_a_true_estimate_names_a_number_of_power(drawn, limit):
    """Where the estimate is right, four in five samples of that size settle it, and few of a quarter of it."""
    random = np.random.default_rng(2)
    value, width = typical(drawn)
    needed = prompts_to_settle(value, *ends(width), limit, FIRST)
    often, seldom = (np.mean([settled(drawn, limit, n, random) for _ in range(400)]) for n in (needed, needed // 4))
    assert 0.65 <= often <= 0.95
    assert seldom <= 0.45


def typical(drawn):
    """The sample of 64 whose value is nearest to the truth, which 100,000 prompts tell."""
    random = np.random.default_rng(3)
    truth, _ = drawn(100_000, random)
    return min((drawn(FIRST, random) for _ in range(200)), key=lambda found: abs(found[0] - truth))
