"""Correlation sums come back exactly from half of their matrix, and rounded as said from a baseline's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantcheck.analyses.redundancy import correlation, correlation_histogram, defined
from pytest_quantcheck.records import Correlations
from pytest_quantcheck.storage.correlations import exact_arrays, from_exact, from_rounded, rounded_arrays

LARGEST_ERROR = 0.5 / 32_767 + 1e-6
"""Half a step of r; float32 rounds the sums themselves, and r in `correlation`, by a few times 6e-8."""


@st.composite
def sums(draw):
    """Sums of correlated neurons of all scales: some constant, some whose squares are no normal numbers."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    width, tokens = draw(st.integers(0, 12)), draw(st.integers(2, 40))
    scale = draw(st.lists(st.sampled_from([0, 1e-21, 1e-19, 3e-5, 1, 7e4, 1e17]), min_size=width, max_size=width))
    activations = generator.normal(size=(tokens, 3)) @ generator.normal(size=(3, width)) * np.array(scale)
    mean = activations.mean(axis=0)
    activations -= mean
    comoment = (activations.T @ activations).astype(np.float32)
    return Correlations(tokens, mean, np.triu(comoment) + np.triu(comoment, 1).T)


@given(sums())
def test_exact_sums_come_back_bit_for_bit(expected):
    """All entries of both halves."""
    obtained = from_exact(expected.count, **exact_arrays(expected))
    assert obtained.comoment.tobytes() == expected.comoment.tobytes()
    assert (obtained.count, obtained.mean.tobytes()) == (expected.count, expected.mean.tobytes())


@given(sums())
def test_rounding_moves_r_by_half_a_step(expected):
    """And neither the squares, the mean nor which neurons are constant."""
    obtained = from_rounded(expected.count, **rounded_arrays(expected))
    assert obtained.mean.tobytes() == expected.mean.tobytes()
    assert np.diagonal(obtained.comoment).tobytes() == np.diagonal(expected.comoment).tobytes()
    assert np.array_equal(defined(obtained), defined(expected))
    assert np.abs(correlation(obtained)[0] - correlation(expected)[0]).max(initial=0) <= LARGEST_ERROR


@given(sums())
def test_rounding_again_changes_nothing(expected):
    """What lies in a baseline is what a baseline of it would hold."""
    stored = rounded_arrays(expected)
    again = rounded_arrays(from_rounded(expected.count, **stored))
    assert {name: array.tobytes() for name, array in stored.items()} == {
        name: array.tobytes() for name, array in again.items()
    }


def test_neuron_that_is_constant_stays_out_of_the_histogram():
    """A constant neuron has no r, and the pairs of the others are counted as before."""
    activations = np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32)
    activations[:, 2] = 3
    centred = activations - activations.mean(axis=0)
    expected = Correlations(50, activations.mean(axis=0, dtype=np.float64), centred.T @ centred)
    obtained = from_rounded(50, **rounded_arrays(expected))
    assert defined(obtained).tolist() == [True, True, False, True, True]
    assert correlation_histogram(obtained).sum() == 6
    assert np.array_equal(correlation_histogram(obtained), correlation_histogram(expected))


@pytest.mark.parametrize("arrays", [exact_arrays, rounded_arrays])
def test_sums_that_are_not_symmetric_are_refused(arrays):
    """Half of the matrix would not give the other: the last bit counts."""
    comoment = np.eye(4, dtype=np.float32)
    comoment[1, 3], comoment[3, 1] = 0.5, np.nextafter(np.float32(0.5), np.float32(1))
    with pytest.raises(
        ValueError, match=r"symmetric comoment, got .*0\.5.* at \(1, 3\) and .*0\.50000006.* at \(3, 1\)"
    ):
        arrays(Correlations(9, np.zeros(4), comoment))


def test_infinite_sums_are_not_rounded():
    """Infinity has no r."""
    comoment = np.eye(3, dtype=np.float32)
    comoment[0, 0] = np.inf
    with pytest.raises(ValueError, match="expected finite correlation sums, got infinity"):
        rounded_arrays(Correlations(9, np.zeros(3), comoment))
