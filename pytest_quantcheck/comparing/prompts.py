"""Metrics of the answers: accuracy, confidence, calibration, divergence, flips."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..analyses.calibration import adaptive_calibration_error, resampled_ace
from ..analyses.divergence import kl_on_support
from ..analyses.resampling import Counts, Floats
from ..records import Answers, Estimate, Measurement
from .sampling import Sampling

BINS = 10


def prompt_estimates(reference: Measurement, candidate: Measurement, sampling: Sampling) -> Iterator[Estimate]:
    """Yield the estimate of every metric that has no layers."""
    before, after = reference.answers, candidate.answers
    yield _accuracy_drop(before, after, sampling)
    yield _confidence_drift(before, after, sampling)
    yield _ace_drift(before, after, sampling)
    yield _kl_divergence(before, after, sampling)
    yield _flip_rate(before, after, sampling)


def _accuracy_drop(before: Answers, after: Answers, sampling: Sampling) -> Estimate:
    right, still = before.correct.astype(np.float64), after.correct.astype(np.float64)
    return sampling.mean("accuracy_drop", right - still, reference=float(right.mean()), candidate=float(still.mean()))


def _confidence_drift(before: Answers, after: Answers, sampling: Sampling) -> Estimate:
    change = after.confidence - before.confidence
    n = len(change)
    interval = sampling.bootstrap(lambda counts: counts @ change / n, n)
    reference, candidate = float(before.confidence.mean()), float(after.confidence.mean())
    return sampling.drift(
        "confidence_drift", float(change.mean()), interval, n, reference=reference, candidate=candidate
    )


def _ace_drift(before: Answers, after: Answers, sampling: Sampling) -> Estimate:
    n = len(before.index)
    if n < BINS:
        return sampling.nothing("ace_drift", f"{BINS} bins need as many prompts, there are {n}", n)

    def change(counts: Counts) -> Floats:
        of_candidate = resampled_ace(after.confidence, after.correct, counts, bins=BINS)
        return of_candidate - resampled_ace(before.confidence, before.correct, counts, bins=BINS)

    own = [adaptive_calibration_error(answers.confidence, answers.correct, bins=BINS) for answers in (before, after)]
    interval = sampling.bootstrap(change, n)
    return sampling.drift("ace_drift", own[1] - own[0], interval, n, reference=own[0], candidate=own[1])


def _kl_divergence(before: Answers, after: Answers, sampling: Sampling) -> Estimate:
    try:
        divergence = kl_on_support(before.log_probs, before.rest, after.log_probs, after.rest)
    except ValueError as error:
        return sampling.nothing("kl_divergence", f"infinite, or no distributions: {error}", len(before.index))
    details = {"median": float(np.median(divergence)), "largest": float(divergence.max())}
    return sampling.mean("kl_divergence", divergence, details=details)


def _flip_rate(before: Answers, after: Answers, sampling: Sampling) -> Estimate:
    flipped = before.token != after.token
    details = {
        "right_to_wrong": float((before.correct & ~after.correct).mean()),
        "wrong_to_right": float((~before.correct & after.correct).mean()),
    }
    return sampling.mean("flip_rate", flipped.astype(np.float64), details=details)
