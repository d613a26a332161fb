"""Metrics of scored tokens: how far a candidate is from the reference on what the reference writes."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from pytest_quantcheck.analyses.clustered import clustered_quantile, clustered_share, mean_by_prompt
from pytest_quantcheck.analyses.resampling import Floats, Interval
from pytest_quantcheck.comparing.estimators import estimates, estimators
from pytest_quantcheck.comparing.intervals import IntervalSettings
from pytest_quantcheck.comparing.passages import token_divergences
from pytest_quantcheck.metric_names import MetricName
from pytest_quantcheck.records import Estimate, Measurement, ScoredTokens

_BY_PROMPT = "by prompt"
"""Ends the name of a method that takes prompts, not tokens, for the sample."""

_FEWEST = 2
"""Prompts from which an error can be estimated."""


def token_estimates(reference: Measurement, candidate: Measurement, intervals: IntervalSettings) -> Iterator[Estimate]:
    """Yield the estimate of every metric of scored tokens; none where none were scored."""
    before, after = reference.scored, candidate.scored
    if before is None or after is None:
        return
    for metric, estimate in estimators(of="tokens"):
        if len(before.index) < _FEWEST:
            yield intervals.undefined(metric, f"it takes {_FEWEST} prompts or more", len(before.index))
        else:
            yield estimate(before, after, intervals)


@estimates("token_kl")
def _token_kl(before: ScoredTokens, after: ScoredTokens, intervals: IntervalSettings) -> Estimate:
    n, divergence = len(before.index), _divergence("token_kl", before, after, intervals)
    if isinstance(divergence, Estimate):
        return divergence
    interval = intervals.mean(mean_by_prompt(divergence, before.lengths))
    return intervals.estimate(
        "token_kl",
        float(divergence.mean()),
        Interval(max(0.0, interval.low), interval.high),
        n,
        method=f"studentised bootstrap {_BY_PROMPT}, {intervals.draws} draws",
        details={"tokens": float(len(divergence)), "median": float(np.median(divergence))},
    )


@estimates("token_kl_p99")
def _token_kl_p99(before: ScoredTokens, after: ScoredTokens, intervals: IntervalSettings) -> Estimate:
    n, divergence = len(before.index), _divergence("token_kl_p99", before, after, intervals)
    if isinstance(divergence, Estimate):
        return divergence
    value, interval = clustered_quantile(divergence, before.lengths, 0.99, confidence=intervals.confidence)
    if math.isinf(interval.high):
        reason = f"{len(divergence)} tokens after {n} prompts do not bound the largest hundredth; take more prompts"
        return intervals.undefined("token_kl_p99", reason, n)
    details = {"largest": float(divergence.max())}
    return intervals.estimate("token_kl_p99", value, interval, n, method=f"Woodruff {_BY_PROMPT}", details=details)


@estimates("same_top")
def _same_top(before: ScoredTokens, after: ScoredTokens, intervals: IntervalSettings) -> Estimate:
    same = before.top == after.top
    interval = clustered_share(same, before.lengths, confidence=intervals.confidence)
    method = f"exact binomial of the effective sample {_BY_PROMPT}"
    details = {"first_divergence": _first_divergence(before, after)}
    return intervals.estimate(
        "same_top", float(same.mean()), interval, len(before.index), method=method, details=details
    )


@estimates("perplexity_ratio")
def _perplexity_ratio(before: ScoredTokens, after: ScoredTokens, intervals: IntervalSettings) -> Estimate:
    n, lost = len(before.index), before.log_prob.astype(np.float64) - after.log_prob
    if not np.isfinite(lost).all():
        return intervals.undefined("perplexity_ratio", "infinite: a token that was written has probability 0", n)
    interval = intervals.mean(mean_by_prompt(lost, before.lengths))
    return intervals.estimate(
        "perplexity_ratio",
        math.exp(lost.mean()),
        Interval(math.exp(interval.low), math.exp(interval.high)),
        n,
        method=f"studentised bootstrap {_BY_PROMPT}, {intervals.draws} draws",
        reference=math.exp(-before.log_prob.mean(dtype=np.float64)),
        candidate=math.exp(-after.log_prob.mean(dtype=np.float64)),
    )


def _divergence(
    metric: MetricName, before: ScoredTokens, after: ScoredTokens, intervals: IntervalSettings
) -> Floats | Estimate:
    """Measure the divergence at each token; an estimate without a value where that cannot be."""
    try:
        return token_divergences(before, after)
    except ValueError as error:
        return intervals.undefined(metric, f"infinite, or no distributions: {error}", len(before.index))


def _first_divergence(before: ScoredTokens, after: ScoredTokens) -> float:
    """Find the median place at which the candidate would write another token.

    Places count from 1; where it never would it is the place after the last.
    """
    starts = np.cumsum(before.lengths) - before.lengths
    other = np.split(after.top != before.token, starts[1:])
    return float(np.median([1 + (int(one.argmax()) if one.any() else len(one)) for one in other]))
