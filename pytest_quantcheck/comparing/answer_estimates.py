"""Metrics of the answers: accuracy, confidence, calibration, divergence, flips."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pytest_quantcheck.analyses.calibration import adaptive_calibration_error, reliability_bins, resampled_ace
from pytest_quantcheck.analyses.divergence import kl_on_support
from pytest_quantcheck.analyses.draws import Counts
from pytest_quantcheck.analyses.resampling import Floats, Interval, paired_shares, share
from pytest_quantcheck.comparing.estimators import estimates, estimators
from pytest_quantcheck.comparing.intervals import IntervalSettings
from pytest_quantcheck.records import Answer, Answers, Estimate, Flip, Measurement, ReliabilityBin

BINS = 10


def prompt_estimates(reference: Measurement, candidate: Measurement, intervals: IntervalSettings) -> Iterator[Estimate]:
    """Yield the estimate of every metric of answers."""
    before, after = reference.answers, candidate.answers
    for _, estimate in estimators(of="answers"):
        yield estimate(before, after, intervals)


def reliability_diagrams(reference: Measurement, candidate: Measurement) -> dict[str, tuple[ReliabilityBin, ...]]:
    """Bin each model's answers as for its ACE; no bins with fewer prompts than bins."""
    models = {"reference": reference.answers, "candidate": candidate.answers}
    return {name: _bins(answers) for name, answers in models.items() if len(answers.index) >= BINS}


def flips(reference: Measurement, candidate: Measurement) -> Iterator[Flip]:
    """Yield the prompts whose answer changed, in prompt order."""
    before, after = reference.answers, candidate.answers
    for i in np.flatnonzero(before.token != after.token).tolist():
        yield Flip(index=int(before.index[i]), reference=_answer(reference, i), candidate=_answer(candidate, i))


def _bins(answers: Answers) -> tuple[ReliabilityBin, ...]:
    table = reliability_bins(answers.confidence, answers.correct, bins=BINS)
    rows = zip(table.count.tolist(), table.confidence.tolist(), table.accuracy.tolist(), strict=True)
    return tuple(ReliabilityBin(count=n, confidence=sure, accuracy=right) for n, sure, right in rows)


def _answer(model: Measurement, i: int) -> Answer:
    answers = model.answers
    text = model.text_of(answers.token[i])
    return Answer(text=text, confidence=float(answers.confidence[i]), correct=bool(answers.correct[i]))


@estimates("accuracy_drop")
def _accuracy_drop(before: Answers, after: Answers, intervals: IntervalSettings) -> Estimate:
    lost, won, n = (
        int((before.correct & ~after.correct).sum()),
        int((~before.correct & after.correct).sum()),
        len(before.index),
    )
    return intervals.estimate(
        "accuracy_drop",
        (lost - won) / n,
        paired_shares(lost, won, n, confidence=intervals.confidence),
        n,
        method="adjusted Wald, paired",
        reference=float(before.correct.mean()),
        candidate=float(after.correct.mean()),
    )


@estimates("confidence_drift")
def _confidence_drift(before: Answers, after: Answers, intervals: IntervalSettings) -> Estimate:
    change = after.confidence - before.confidence
    return intervals.absolute_change(
        "confidence_drift",
        float(change.mean()),
        intervals.mean(change),
        len(change),
        method=_bootstrap_method(intervals),
        reference=float(before.confidence.mean()),
        candidate=float(after.confidence.mean()),
    )


@estimates("ace_drift")
def _ace_drift(before: Answers, after: Answers, intervals: IntervalSettings) -> Estimate:
    n = len(before.index)
    if n < BINS:
        return intervals.undefined("ace_drift", f"{BINS} bins need as many prompts, there are {n}", n)

    def change(counts: Counts) -> Floats:
        of_candidate = resampled_ace(after.confidence, after.correct, counts, bins=BINS)
        return of_candidate - resampled_ace(before.confidence, before.correct, counts, bins=BINS)

    own = [adaptive_calibration_error(answers.confidence, answers.correct, bins=BINS) for answers in (before, after)]
    drift, halved = own[1] - own[0], n >= 2 * BINS
    return intervals.absolute_change(
        "ace_drift",
        drift,
        intervals.half_sampled(change, drift, n) if halved else Interval(-1.0, 1.0),
        n,
        method=f"paired halves, {intervals.draws} draws" if halved else f"none below {2 * BINS} prompts",
        reference=own[0],
        candidate=own[1],
    )


@estimates("kl_divergence")
def _kl_divergence(before: Answers, after: Answers, intervals: IntervalSettings) -> Estimate:
    n = len(before.index)
    try:
        divergence = kl_on_support(before.log_probs, before.rest, after.log_probs, after.rest)
    except ValueError as error:
        return intervals.undefined("kl_divergence", f"infinite, or no distributions: {error}", n)
    details = {"median": float(np.median(divergence)), "largest": float(divergence.max())}
    interval, method = intervals.mean(divergence), _bootstrap_method(intervals)
    interval = Interval(max(0.0, interval.low), interval.high)
    return intervals.estimate("kl_divergence", float(divergence.mean()), interval, n, method=method, details=details)


@estimates("flip_rate")
def _flip_rate(before: Answers, after: Answers, intervals: IntervalSettings) -> Estimate:
    flips, n = int((before.token != after.token).sum()), len(before.index)
    details = {
        "right_to_wrong": float((before.correct & ~after.correct).mean()),
        "wrong_to_right": float((~before.correct & after.correct).mean()),
    }
    interval = share(flips, n, confidence=intervals.confidence)
    return intervals.estimate("flip_rate", flips / n, interval, n, method="exact binomial", details=details)


def _bootstrap_method(intervals: IntervalSettings) -> str:
    return f"paired studentised bootstrap, {intervals.draws} draws"
