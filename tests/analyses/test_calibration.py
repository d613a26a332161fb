"""Adaptive calibration error: against direct formulas, the paper's binning, and explicit resampling."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_quantcheck.analyses.calibration import adaptive_calibration_error, reliability_bins, resampled_ace

fresh = settings(max_examples=60)


@st.composite
def answers(draw, min_size=10):
    """Confidences and correctness of n prompts; drawn from few levels, or from many, so with and without ties."""
    n = draw(st.integers(min_size, 200))
    levels = draw(st.sampled_from([1, 2, 5, 30, 10**9]))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    return generator.integers(0, levels + 1, n) / levels, generator.random(n) < generator.random()


def paper_ace(confidence, correct):
    """Bin as the paper does: sort, ten slices of n // 10, one prompt more in each of the first n % 10."""
    ranked = sorted(zip(confidence.tolist(), correct.tolist(), strict=True))
    gaps, start = [], 0
    for index in range(10):
        size = len(ranked) // 10 + (1 if index < len(ranked) % 10 else 0)
        part = ranked[start : start + size]
        gaps.append(abs(sum(y for _, y in part) / size - sum(c for c, _ in part) / size))
        start += size
    return sum(gaps) / 10


def tied_ace(confidence, correct, bins=10):
    """Give every prompt the mean correctness of those as confident, then bin one prompt at a time."""
    shared = [float(np.mean(correct[confidence == value])) for value in confidence]
    ranked = sorted(zip(confidence.tolist(), shared, strict=True))
    parts = np.array_split(np.array(ranked), bins)
    return float(np.mean([abs(part[:, 1].mean() - part[:, 0].mean()) for part in parts]))


@pytest.mark.parametrize("n", [10, 11, 19, 100, 997, 10_000])
def test_without_ties_it_is_the_papers_number(n):
    """Where no two confidences are equal, the paper's code gives the same to float64 rounding."""
    generator = np.random.default_rng(n)
    confidence = generator.permutation((np.arange(n) + 0.5) / n)
    correct = generator.random(n) < confidence**2
    assert adaptive_calibration_error(confidence, correct) == pytest.approx(paper_ace(confidence, correct), abs=1e-12)


@fresh
@given(answers())
def test_agrees_with_the_slow_oracle(sample):
    """With any number of ties, every prompt counts with the mean correctness of its equals."""
    assert adaptive_calibration_error(*sample) == pytest.approx(tied_ace(*sample), abs=1e-12)


@fresh
@given(answers(), st.integers(0, 2**32))
def test_does_not_depend_on_the_order_of_the_prompts(sample, seed):
    """Ties straddling a bin edge are shared out, so a shuffle changes at most the rounding of sums."""
    confidence, correct = sample
    order = np.random.default_rng(seed).permutation(len(confidence))
    obtained = adaptive_calibration_error(confidence[order], correct[order])
    assert obtained == pytest.approx(adaptive_calibration_error(confidence, correct), abs=1e-12)


def test_a_tie_across_a_bin_edge_is_shared_by_both_bins():
    """Four prompts of confidence 0.5, two right, in two bins: both bins are right half of the time."""
    assert adaptive_calibration_error([0.5] * 4, [1, 1, 0, 0], bins=2) == 0.0


def test_hand_computed():
    """Two bins of two prompts: |0.5 - 0.65| and |1 - 0.85| have the mean 0.15."""
    assert adaptive_calibration_error([0.9, 0.6, 0.8, 0.7], [1, 0, 1, 1], bins=2) == pytest.approx(0.15, abs=1e-15)


def test_reliability_bins_are_equal_counts_with_larger_bins_first():
    """Twelve prompts in five bins: three, three, two, two, two, each with its own means."""
    confidence = np.arange(12) / 12
    table = reliability_bins(confidence[::-1], [1] * 6 + [0] * 6, bins=5)
    assert table.count.tolist() == [3, 3, 2, 2, 2]
    assert table.accuracy.tolist() == [0, 0, 1, 1, 1]
    np.testing.assert_allclose(table.confidence * 12, [1, 4, 6.5, 8.5, 10.5], atol=1e-12)


@fresh
@given(answers(), st.integers(1, 10), st.integers(0, 2**32))
def test_resampling_is_the_error_of_the_repeated_prompts(sample, bins, seed):
    """A draw's ACE is that of the prompts written out as often as the draw has them, ties included."""
    confidence, correct = sample
    n = len(confidence)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=7)
    expected = [tied_ace(np.repeat(confidence, row), np.repeat(correct, row), bins) for row in counts]
    np.testing.assert_allclose(resampled_ace(confidence, correct, counts, bins=bins), expected, atol=1e-12)


@pytest.mark.parametrize("n", [63, 64, 65, 128, 1000])
def test_resampling_at_the_edges_of_its_blocks(n):
    """Numbers of prompts just below, at and above a whole number of blocks give the same; so does one prompt alone."""
    generator = np.random.default_rng(n)
    confidence, correct = generator.random(n), generator.random(n) < 0.5
    counts = np.vstack([np.ones(n), np.eye(n)[[0, -1]] * n])
    expected = [tied_ace(np.repeat(confidence, row), np.repeat(correct, row)) for row in counts.astype(int)]
    np.testing.assert_allclose(resampled_ace(confidence, correct, counts), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("confidence", "correct", "message"),
    [
        ([0.5] * 9, [1] * 9, "9 prompts; use more prompts"),
        ([0.5] * 10, [1] * 9, r"shapes \(10,\) and \(9,\)"),
        ([0.5] * 9 + [float("nan")], [1] * 10, r"in \[0, 1\], got nan"),
        ([0.5] * 9 + [1.5], [1] * 10, r"in \[0, 1\], got 1.5"),
        ([0.5] * 10, [2] * 10, "to be 0 or 1"),
    ],
)
def test_what_it_refuses(confidence, correct, message):
    """Input without an error of its own is refused with what was expected and what came."""
    with pytest.raises(ValueError, match=message):
        adaptive_calibration_error(confidence, correct)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([[1] * 10, [2] * 10], "of one size"),
        ([[1] * 9 + [0]], "at least 10 prompts"),
        ([[1] * 11], r"\(draws, 10\)"),
        (np.empty((0, 10)), "at least one draw"),
    ],
)
def test_draws_it_refuses(counts, message):
    """Draws of different sizes, of too few prompts, or of other prompts are refused."""
    with pytest.raises(ValueError, match=message):
        resampled_ace(np.arange(10) / 10, [1] * 10, counts)
