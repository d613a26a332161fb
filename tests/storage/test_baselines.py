"""A baseline fits its budget, keeps a sample that any measurement would take, and rounds correlations alone."""

import dataclasses
from functools import partial

import numpy as np
import pytest

from pytest_quantcheck.analyses.redundancy import correlation, defined
from pytest_quantcheck.comparing import IntervalSettings, compare
from pytest_quantcheck.errors import StorageError
from pytest_quantcheck.storage import load_measurement, load_provenance, save_baseline, save_measurement
from tests.storage.synthetic import synthetic

SMALL = partial(synthetic, prompts=20, width=700, tokens=300, support=64)
HALF_A_STEP = 0.5 / 32_767 + 1e-6  # and float32's own rounding


@pytest.fixture(scope="module")
def whole():
    """A reference with all of its 700 neurons correlated."""
    return SMALL(correlated=700)


def size(directory):
    """Bytes of all files."""
    return sum(path.stat().st_size for path in directory.iterdir())


def content(directory):
    """All files by name."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def without_correlations(measurement, *, neurons=0):
    """A measurement less what a baseline may change: all correlations, and which neurons have any."""
    layers = {
        layer: dataclasses.replace(seen, correlations=None, groups=None, correlated=None)
        for layer, seen in measurement.activations.items()
    }
    provenance = type(measurement.provenance)(
        **{name: getattr(measurement.provenance, name) for name in measurement.provenance.__struct_fields__}
        | {"redundancy_neurons": neurons}
    )
    return dataclasses.replace(measurement, activations=layers, provenance=provenance)


def test_all_but_correlations_is_kept_exactly(whole, same, tmp_path):
    """Answers, extremes, salient sets and the neurons followed are those of the measurement, bit for bit."""
    save_baseline(whole, tmp_path / "baseline")
    assert same(without_correlations(whole), without_correlations(load_measurement(tmp_path / "baseline")))
    assert load_provenance(tmp_path / "baseline") == whole.provenance


def test_correlations_are_rounded_by_half_a_step(whole, tmp_path):
    """Of the whole layer and of each group; the constant neuron stays constant, all others are defined."""
    save_baseline(whole, tmp_path / "baseline")
    found = load_measurement(tmp_path / "baseline")
    for layer, expected in whole.activations.items():
        obtained = found.activations[layer]
        for before, after in zip(
            (expected.correlations, *expected.groups), (obtained.correlations, *obtained.groups), strict=True
        ):
            assert before.count == after.count
            assert np.array_equal(defined(before), defined(after))
            assert np.abs(correlation(before)[0] - correlation(after)[0]).max() <= HALF_A_STEP
        assert np.flatnonzero(~defined(obtained.correlations)).tolist() == [0]


@pytest.mark.parametrize("budget", [3_900_000, 3_977_777, 4_100_000, 4_500_001, 5_000_000, 6_000_000])
def test_budget_is_met_and_used(whole, tmp_path, budget):
    """The directory is no larger, and one with six more neurons a layer would be."""
    save_baseline(whole, tmp_path / "baseline", budget=budget)
    kept = load_provenance(tmp_path / "baseline").redundancy_neurons
    assert size(tmp_path / "baseline") <= budget
    six_more = 3 * 6 * (kept + 20) * 2  # bytes
    assert kept > 256
    assert kept == 700 or size(tmp_path / "baseline") + six_more > budget


def test_neurons_kept_are_those_of_a_smaller_measurement(whole, tmp_path):
    """A baseline that had to leave out neurons is the baseline of a measurement that never took them."""
    save_baseline(whole, tmp_path / "baseline", budget=4_000_000)
    kept = load_provenance(tmp_path / "baseline").redundancy_neurons
    assert 256 < kept < 700
    smaller, found = SMALL(correlated=kept), load_measurement(tmp_path / "baseline")
    assert smaller.provenance == found.provenance
    for layer, expected in smaller.activations.items():
        obtained = found.activations[layer]
        assert np.array_equal(expected.correlated, obtained.correlated)
        assert np.abs(correlation(expected.correlations)[0] - correlation(obtained.correlations)[0]).max() < 2e-5


def test_never_fewer_than_the_neurons_of_an_interval(whole, tmp_path):
    """A budget that nothing fits is exceeded: 256 neurons are kept."""
    save_baseline(whole, tmp_path / "baseline", budget=1000)
    found = load_measurement(tmp_path / "baseline")
    assert found.provenance.redundancy_neurons == 256
    assert all(np.array_equal(seen.correlated, seen.sample) for seen in found.activations.values())


@pytest.mark.parametrize("budget", [1000, 4_000_000, 20_000_000])
def test_stored_again_it_is_the_same(whole, tmp_path, budget):
    """Byte for byte, however much had to be left out: a committed baseline shows no difference."""
    save_baseline(whole, tmp_path / "baseline", budget=budget)
    save_baseline(load_measurement(tmp_path / "baseline"), tmp_path / "again", budget=budget)
    assert content(tmp_path / "baseline") == content(tmp_path / "again")


def test_baseline_can_be_kept_as_an_exact_measurement(whole, same, tmp_path):
    """What was loaded from a baseline is a measurement like any other."""
    save_baseline(whole, tmp_path / "baseline", budget=4_000_000)
    found = load_measurement(tmp_path / "baseline")
    save_measurement(found, tmp_path / "exact")
    assert same(found, load_measurement(tmp_path / "exact"))


def test_few_neurons_are_all_kept(measurement, tmp_path):
    """A layer with fewer than 256 is kept whole, however small the budget, groups without a prompt included."""
    save_baseline(measurement, tmp_path / "baseline", budget=0)
    assert load_provenance(tmp_path / "baseline") == measurement.provenance


def test_neurons_of_another_sample_are_not_thinned(whole, tmp_path):
    """Where a smaller measurement would take neurons that are not there, the baseline is refused."""
    layer, seen = next(iter(whole.activations.items()))
    other = dataclasses.replace(seen, correlated=np.arange(500, dtype=np.int64))
    other = dataclasses.replace(other, correlations=SMALL(correlated=500).activations[layer].correlations)
    strange = dataclasses.replace(whole, activations={**whole.activations, layer: other})
    with pytest.raises(StorageError, match=f"neurons correlated in layer {layer} to be a sample of seed 3"):
        save_baseline(strange, tmp_path / "baseline", budget=1000)
    assert not (tmp_path / "baseline").exists()


def test_nan_is_refused(whole, tmp_path):
    """Rounding makes no number of it."""
    layer, seen = next(iter(whole.activations.items()))
    comoment = seen.correlations.comoment.copy()
    comoment[3, 3] = np.nan
    broken = dataclasses.replace(seen, correlations=dataclasses.replace(seen.correlations, comoment=comoment))
    with pytest.raises(StorageError, match=f"NaN in 1 of 490000 in activations/{layer}/correlations/comoment"):
        save_baseline(dataclasses.replace(whole, activations={**whole.activations, layer: broken}), tmp_path / "x")


@pytest.mark.ci
def test_seven_billion_parameters_fit_into_twenty_megabytes(tmp_path):
    """1,000 prompts at three layers of 11,008 neurons, 2,048 of them correlated: about 1,100 are kept, and compared.

    The true reference correlates up to all 11,008, 485 MB a layer; the neurons that are left out first are not made.
    """
    shape = {"prompts": 1000, "width": 11_008, "tokens": 512}
    save_baseline(synthetic(**shape, correlated=2048), tmp_path / "baseline")
    assert size(tmp_path / "baseline") < 20_000_000
    baseline = load_measurement(tmp_path / "baseline")
    kept = baseline.provenance.redundancy_neurons
    assert kept > 1100
    comparison = compare(baseline, synthetic(**shape, correlated=kept, noise=0.3), IntervalSettings(draws=200))
    assert {estimate.details["neurons"] for estimate in comparison.of("redundancy_change")} == {kept}
    assert all(estimate.value > 0 for estimate in comparison.of("redundancy_change"))
