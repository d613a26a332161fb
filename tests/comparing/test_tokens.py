"""What is estimated of scored tokens is what plain code says of their distributions."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from pytest_quantcheck.analyses.divergence import kl_on_support
from pytest_quantcheck.comparing import IntervalSettings
from pytest_quantcheck.comparing.passages import PERCENTILES, SHOWN, token_divergence
from pytest_quantcheck.comparing.token_estimates import token_estimates
from pytest_quantcheck.records import ScoredTokens

INTERVALS = IntervalSettings(draws=200)
WORDS = 12


def log_probs(random, tokens, spread=1.0):
    """Random distributions over a dozen words."""
    logits = spread * random.standard_normal((tokens, WORDS))
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def scored(lengths, token, whole):
    """A record of whole distributions."""
    every = np.arange(len(token))
    return ScoredTokens(
        index=np.arange(len(lengths)),
        lengths=np.array(lengths),
        token=token.astype(np.int32),
        log_prob=whole[every, token].astype(np.float32),
        top=whole.argmax(axis=1).astype(np.int32),
        support=np.tile(np.arange(WORDS, dtype=np.int32), (len(token), 1)),
        log_probs=whole.astype(np.float16),
        rest=np.full(len(token), -np.inf, dtype=np.float32),
    )


@pytest.fixture
def pair():
    """Two models on what the first finds most probable, after forty prompts."""
    random = np.random.default_rng(0)
    lengths = random.integers(1, 30, 40)
    one = log_probs(random, lengths.sum(), 2.0)
    other = log_probs(random, lengths.sum(), 0.5) + one
    other -= np.log(np.exp(other).sum(axis=1, keepdims=True))
    return (one, other), tuple(scored(lengths, one.argmax(axis=1), whole) for whole in (one, other))


def found(before, after):
    """Estimates by metric."""
    both = (SimpleNamespace(scored=one) for one in (before, after))
    return {estimate.metric: estimate for estimate in token_estimates(*both, INTERVALS)}


def test_values_are_those_of_plain_code(pair):
    """Divergences, agreement and perplexities, over tokens."""
    (one, other), (before, after) = pair
    divergence = (np.exp(one) * (one - other)).sum(axis=1)
    written = one.max(axis=1), other[np.arange(len(one)), one.argmax(axis=1)]
    values = {name: estimate.value for name, estimate in found(before, after).items()}
    assert values == pytest.approx(
        {
            "token_kl": divergence.mean(),
            "token_kl_p99": np.quantile(divergence, 0.99, method="inverted_cdf"),
            "same_top": np.mean(one.argmax(axis=1) == other.argmax(axis=1)),
            "perplexity_ratio": math.exp(np.mean(written[0] - written[1])),
        },
        rel=1e-3,
    )


def test_intervals_hold_their_values(pair):
    """And are of prompts, not of tokens: ten times the same tokens of each prompt are not ten times the sample."""
    _, (before, after) = pair
    estimates = found(before, after)
    order = np.concatenate([np.tile(np.arange(before.of(i).start, before.of(i).stop), 10) for i in range(40)])
    more = [
        ScoredTokens(
            **{name: value[order] if len(value) == len(order) / 10 else value for name, value in vars(one).items()}
            | {"lengths": 10 * one.lengths}
        )
        for one in (before, after)
    ]
    for name, estimate in found(*more).items():
        assert estimate.low < estimate.value < estimate.high
        same = estimates[name]
        few = 0.1 if name == "token_kl_p99" else 1e-3  # its ends are values that were seen
        assert (estimate.low, estimate.high) == pytest.approx((same.low, same.high), rel=few), name


def test_equal_models(pair):
    """No divergence, every token the same."""
    _, (before, _) = pair
    values = {name: estimate.value for name, estimate in found(before, before).items()}
    assert values == {"token_kl": 0, "token_kl_p99": 0, "same_top": 1, "perplexity_ratio": 1}


def test_first_divergence_is_the_median_place():
    """Of three prompts: at once, at the third token, never in two."""
    one = np.log(np.full((8, WORDS), 1e-3) + np.eye(WORDS)[[0] * 8])
    other = one.copy()
    other[[0, 5]] = np.log(np.full(WORDS, 1e-3) + np.eye(WORDS)[1])
    token = np.zeros(8, dtype=int)
    before, after = (scored([3, 3, 2], token, whole) for whole in (one, other))
    assert found(before, after)["same_top"].details["first_divergence"] == 3.0
    after = replace(after, top=np.array([0, 0, 0, 0, 0, 0, 0, 0], dtype=np.int32))
    assert found(before, after)["same_top"].details["first_divergence"] == 4.0


def test_what_cannot_be_estimated_says_why(pair):
    """One prompt, few tokens, or a token that the candidate holds impossible."""
    (one, other), _ = pair
    token = one.argmax(axis=1)
    alone = scored([5], token[:5], one[:5]), scored([5], token[:5], other[:5])
    assert {estimate.reason for estimate in found(*alone).values()} == {"it takes 2 prompts or more"}
    few = scored([5] * 4, token[:20], one[:20]), scored([5] * 4, token[:20], other[:20])
    assert "take more prompts" in found(*few)["token_kl_p99"].reason
    impossible = other.copy()
    impossible[3, token[3]] = -np.inf
    impossible[3] -= np.log(np.exp(impossible[3]).sum())
    reasons = {
        name: estimate.reason for name, estimate in found(few[0], scored([5] * 4, token[:20], impossible[:20])).items()
    }
    assert reasons["perplexity_ratio"].startswith("infinite")
    assert reasons["token_kl"].startswith("infinite")
    assert not list(token_estimates(SimpleNamespace(scored=None), SimpleNamespace(scored=None), INTERVALS))


def divergence_of(before, after):
    """Where two models differ, whose token 7 reads w7."""
    return token_divergence(*(SimpleNamespace(scored=one, text_of="w{}".format) for one in (before, after)))


def by_prompt(before, after):
    """Token KL of each passage."""
    divergence = kl_on_support(before.log_probs, before.rest, after.log_probs, after.rest)
    return [divergence[before.of(i)].tolist() for i in range(len(before.index))]


def test_percentiles_are_shares_of_tokens(pair):
    """No more than the share lies above; that of 99 is the metric's value."""
    _, models = pair
    every = np.concatenate(by_prompt(*models))
    told = divergence_of(*models).percentiles
    assert list(told) == [f"{share:g}" for share in PERCENTILES]
    for share, value in told.items():
        assert np.mean(every > value) <= 1 - float(share) / 100 + 1e-12
        assert value in every
    assert told["99"] == found(*models)["token_kl_p99"].value
    assert told["100"] == every.max()


def test_places_hold_every_token_once(pair):
    """Two places each, where passages have up to 29 tokens; means and percentiles are theirs."""
    _, models = pair
    passages = by_prompt(*models)
    places = divergence_of(*models).places
    assert [(place.first, place.last) for place in places] == [(first, min(first + 1, 29)) for first in range(1, 30, 2)]
    assert sum(place.count for place in places) == sum(map(len, passages))
    for place in places:
        there = [value for passage in passages for value in passage[place.first - 1 : place.last]]
        assert (place.count, place.mean) == (len(there), pytest.approx(np.mean(there)))
        assert place.p95 == np.quantile(there, 0.95, method="inverted_cdf")


def test_worst_passages_come_first(pair):
    """By mean token KL, each token with what was written, the candidate's most probable one and its own number."""
    _, (before, after) = pair
    passages = by_prompt(before, after)
    order = sorted(range(40), key=lambda i: -np.mean(passages[i]))[:SHOWN]
    worst = divergence_of(before, after).worst
    assert [passage.index for passage in worst] == order
    for passage in worst:
        tokens = before.of(passage.index)
        assert passage.divergence == pytest.approx(np.mean(passages[passage.index]))
        assert [token.divergence for token in passage.tokens] == passages[passage.index]
        assert [token.written for token in passage.tokens] == [f"w{token}" for token in before.token[tokens]]
        assert [token.top for token in passage.tokens] == [f"w{token}" for token in after.top[tokens]]


def test_equal_models_have_no_worst_passage(pair):
    """All percentiles are zero, and no passage is accused."""
    _, (before, _) = pair
    told = divergence_of(before, before)
    assert set(told.percentiles.values()) == {0.0}
    assert told.worst == ()


def test_infinite_divergence_is_not_drawn(pair):
    """The metric says why; there is nothing to show by place."""
    _, (before, after) = pair
    none = after.log_probs.copy()
    none[0, 0] = -np.inf
    assert divergence_of(before, replace(after, log_probs=none)) is None
    assert divergence_of(None, None) is None
