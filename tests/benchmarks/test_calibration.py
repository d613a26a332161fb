"""ACE drift with its interval, against the paper's pandas code and netcal, a calibration library."""

import numpy as np
import pandas as pd
import pytest
from netcal.metrics import ECE

from pytest_quantcheck.analyses.calibration import resampled_ace
from pytest_quantcheck.analyses.draws import half_samples
from pytest_quantcheck.analyses.resampling import half_sampled

BINS = 10


def paper_ace(confidence, correct):
    """The paper's way: a data frame sorted by confidence, cut into ten slices, a mean of each."""
    frame = pd.DataFrame({"confidence": confidence, "correct": correct}).sort_values("confidence")
    sizes = np.full(BINS, len(frame) // BINS)
    sizes[: len(frame) % BINS] += 1
    stops = np.cumsum(sizes)
    slices = [frame.iloc[stop - size : stop] for stop, size in zip(stops, sizes, strict=True)]
    return np.mean([abs(part["correct"].mean() - part["confidence"].mean()) for part in slices])


def netcal_ace(confidence, correct):
    """Netcal calls it ECE with bins of equal count; its own `ACE` is another quantity.

    It bins ties, which every draw has, in another way: it is compared in time alone.
    """
    return ECE(bins=BINS, equal_intervals=False).measure(confidence, correct)


def looped(ace, answers, n, draws):
    """The same halves, one after another, and the interval that their drifts make."""
    drift = []
    for counts in half_samples(n, draws, seed=0):
        for count in counts:
            rows = np.flatnonzero(count)
            reference, candidate = (ace(confidence[rows], correct[rows]) for confidence, correct in answers)
            drift.append(candidate - reference)
    return half_sampled(lambda counts: np.array([drift.pop(0) for _ in counts]), 0.0, n, draws=draws)


def both_models(n):
    """Answers of two models to the same n prompts."""
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.2, 1.0, size=(2, n))
    return [(each, (generator.uniform(size=n) < each**1.2).astype(int)) for each in confidence]


@pytest.mark.benchmark(group="calibration")
def test_ace_drift_with_its_interval(race, full, bandwidth):
    """2,000 paired halves of 10,000 prompts; the peers do a fiftieth of the draws, and their time is per draw."""
    n, draws, share = (10_000, 2_000, 50) if full else (200, 50, 1)
    answers = both_models(n)

    def drift(counts):
        reference, candidate = (resampled_ace(*model, counts) for model in answers)
        return candidate - reference

    found, others = race(
        lambda: half_sampled(drift, 0.0, n, draws=draws),
        {
            "the paper's pandas code": lambda: looped(paper_ace, answers, n, draws // share),
            "netcal": lambda: looped(netcal_ace, answers, n, draws // share),
        },
        share=share,
        floor=lambda _: 2 * draws * n * 4 / bandwidth,
        n_prompts=n,
        draws=draws,
        dtype="float64",
    )
    if not full:
        other = others["the paper's pandas code"]
        np.testing.assert_allclose([found.low, found.high], [other.low, other.high], atol=1e-6)
