"""What a baseline trades: compared with it, candidates read as with the whole reference, but for r's rounding."""

import dataclasses

import msgspec
import numpy as np
import pytest

from pytest_quantcheck.comparing import compare
from pytest_quantcheck.errors import ComparisonError
from pytest_quantcheck.measuring import measure
from pytest_quantcheck.storage import load_measurement, load_provenance, save_baseline

from .test_permutations import PLAN, permuted

HALF_A_STEP = 0.5 / 32_767 + 1e-7
"""By which r is rounded in a baseline, and so a redundancy change at most."""

SMALL = 3_820_000
"""Bytes into which not all of the 384 neurons fit."""


@pytest.fixture(scope="module")
def baseline(reference, tmp_path_factory):
    """The reference as it comes back from a baseline; all neurons fit."""
    place = tmp_path_factory.mktemp("whole") / "baseline"
    save_baseline(reference, place)
    return load_measurement(place)


def rounded(estimate):
    """An estimate less what depends on r."""
    return msgspec.structs.replace(estimate, value=None, low=None, high=None, details={})


def test_redundancy_change_is_all_that_moves(reference, baseline, candidate, comparison, sampling):
    """By less than half a step of r; intervals of all other metrics are the same to the last bit."""
    obtained = compare(baseline, candidate, sampling)
    assert (obtained.identical, obtained.notes) == (comparison.identical, comparison.notes)
    for expected, found in zip(comparison.estimates, obtained.estimates, strict=True):
        if expected.metric != "redundancy_change":
            assert found == expected
            continue
        assert rounded(found) == rounded(expected)
        for name in ("value", "low", "high"):
            assert getattr(found, name) == pytest.approx(getattr(expected, name), abs=HALF_A_STEP)


def test_few_pairs_change_their_bin(baseline, candidate, comparison, sampling):
    """The candidate's histogram is the same, the reference's but for pairs at an edge."""
    obtained = compare(baseline, candidate, sampling)
    for layer, expected in comparison.histograms.items():
        found = obtained.histograms[layer]
        assert found["candidate"] == expected["candidate"]
        moved = np.abs(np.subtract(found["reference"], expected["reference"])).sum() / 2
        assert moved <= 1e-3 * sum(expected["reference"])


def test_reference_against_its_own_baseline_moves_by_the_rounding(reference, baseline, sampling):
    """The least that can be told apart: a quarter of a step on average, and nothing but that."""
    comparison = compare(baseline, reference, sampling)
    assert comparison.identical
    assert all(0 < estimate.value < HALF_A_STEP for estimate in comparison.of("redundancy_change"))


def test_permuted_neurons_are_found_from_a_baseline(models, prompts, baseline, sampling):
    """Rounded correlations tell neurons apart and confirm the match as exact ones do."""
    shuffled = measure(permuted(models["reference"], (2, 5)), prompts, PLAN, model="builtin", reference=baseline)
    comparison = compare(baseline, shuffled, sampling)
    assert (
        sum("stand elsewhere in the candidate; each is compared with itself" in note for note in comparison.notes) == 2
    )
    assert all(estimate.value < HALF_A_STEP for estimate in comparison.of("redundancy_change"))


@pytest.fixture(scope="module")
def thinned(reference, tmp_path_factory):
    """The reference as it comes back from a baseline into which not all neurons fit, and where that lies."""
    place = tmp_path_factory.mktemp("small") / "baseline"
    save_baseline(reference, place, budget=SMALL)
    return load_measurement(place), place


def test_candidate_correlates_the_neurons_of_its_baseline(models, prompts, thinned, sampling):
    """As many as the baseline kept, and the same; what the others would have said is in the interval."""
    baseline, place = thinned
    kept = load_provenance(place).redundancy_neurons
    assert 256 < kept < 384
    candidate = measure(models["nf4"], prompts, PLAN, model="builtin", reference=baseline)
    assert candidate.provenance.redundancy_neurons == kept
    for estimate in compare(baseline, candidate, sampling).of("redundancy_change"):
        assert estimate.details["neurons"] == kept
        assert estimate.details["sampling_error"] > 0


def test_reference_measured_with_so_many_neurons_has_the_same_baseline(models, prompts, thinned, tmp_path):
    """Which neurons were left out does not show: correlations agree to float32, all else to the last bit."""
    baseline, _ = thinned
    plan = dataclasses.replace(PLAN, redundancy_neurons=baseline.provenance.redundancy_neurons)
    save_baseline(measure(models["reference"], prompts, plan, model="builtin"), tmp_path / "small")
    smaller = load_measurement(tmp_path / "small")
    assert smaller.provenance == baseline.provenance
    for layer, expected in smaller.activations.items():
        assert np.array_equal(expected.correlated, baseline.activations[layer].correlated)
    assert all(estimate.value < 1e-6 for estimate in compare(baseline, smaller).of("redundancy_change"))


def test_candidate_of_the_whole_reference_is_not_compared(measured, thinned):
    """It correlates neurons that the baseline left out."""
    with pytest.raises(ComparisonError, match="redundancy_neurons"):
        compare(thinned[0], measured["nf4"])
