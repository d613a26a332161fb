"""Where a metric has no definition or no value: said, with the reason, and never averaged over."""

import dataclasses

import numpy as np
import pytest

from pytest_quantcheck.comparing import IntervalSettings, compare
from pytest_quantcheck.judging import judge
from pytest_quantcheck.measuring import Plan, measure
from pytest_quantcheck.options.attribution import AttributionMethod
from pytest_quantcheck.profiles import load_profile
from pytest_quantcheck.records import Correlations
from pytest_quantcheck.reporting import summary_lines
from tests.reporting.runs import run_of

FEW = IntervalSettings(draws=20)


def overlap(comparison, layer):
    """The estimate of the overlap at a layer."""
    (found,) = (estimate for estimate in comparison.of("salient_overlap") if estimate.layer == layer)
    return found


def converged(first):
    """The first so many of twelve prompts converged."""
    return {"converged": np.arange(12) < first}


def test_where_the_reference_does_not_converge_a_layer_takes_no_part(reference, candidate, comparison):
    """Layer 0 of the built-in model: not applicable whatever the candidate, and the summary says so."""
    found = overlap(comparison, 0)
    settled = int(reference.saliency[0].converged.sum())
    assert not found.applicable
    assert found.value is found.low is found.high is None
    assert found.reason.startswith(f"the reference's attributions converge for {settled} of")
    verdict = judge(comparison, "ace_drift", load_profile("default@1"))
    lines = [line for line, _ in summary_lines(run_of([verdict], comparison))]
    assert any(line.startswith("- salient-neuron overlap: layer 0 not applicable") for line in lines)
    assert 0 not in candidate.saliency


@pytest.mark.parametrize(("first", "applicable"), [(5, False), (6, True)])
def test_half_of_the_prompts_make_a_layer(reference, changed, first, applicable):
    """Six of twelve prompts that converge in the reference are enough, five are not."""
    before = changed(reference, saliency=(5, converged(first)))
    assert overlap(compare(before, reference, FEW), 5).applicable == applicable


def test_a_candidate_that_does_not_converge_is_unmeasured(reference, measured, changed):
    """The reference converges and the candidate does not: applicable, no value, and the reason counts prompts."""
    found = overlap(compare(reference, changed(measured["nf4"], saliency=(5, converged(5))), FEW), 5)
    assert found.applicable
    assert found.value is found.low is found.high is None
    assert found.reason.startswith("the candidate's attributions converge for 5 of 12 prompts")


def test_a_candidate_without_attributions_is_unmeasured(reference, measured):
    """No record of the layer at all is no convergence."""
    bare = dataclasses.replace(measured["nf4"], saliency={2: measured["nf4"].saliency[2]})
    found = overlap(compare(reference, bare, FEW), 5)
    assert found.applicable
    assert found.value is None
    assert "converge for 0 of 12" in found.reason


def test_too_few_prompts_in_common_are_unmeasured(reference, measured, changed):
    """The first eight converge here and the last eight there: four in common are not averaged."""
    before = changed(reference, saliency=(5, converged(8)))
    after = changed(measured["nf4"], saliency=(5, {"converged": np.arange(12) >= 4}))
    found = overlap(compare(before, after, FEW), 5)
    assert found.applicable
    assert found.value is None
    assert found.reason.startswith("4 prompts converge in both models and 5 are needed")
    assert "--quantcheck-attribution-samples" in found.reason


def test_five_prompts_in_common_are_averaged(reference, measured, changed):
    """One more, and there is a value."""
    before = changed(reference, saliency=(5, converged(9)))
    after = changed(measured["nf4"], saliency=(5, {"converged": np.arange(12) >= 4}))
    found = overlap(compare(before, after, FEW), 5)
    assert found.n_prompts == 5
    assert 0 <= found.value <= 1


def test_without_attribution_there_is_no_overlap(models, prompts):
    """`off`: not one estimate of the overlap; all other metrics are there."""
    plan = Plan(attribution=AttributionMethod("off"))
    before = measure(models["reference"], prompts, plan, model="builtin")
    after = measure(models["nf4"], prompts, plan, model="builtin", reference=before)
    comparison = compare(before, after, FEW)
    assert comparison.of("salient_overlap") == ()
    assert len(comparison.of("redundancy_change")) == 3


def constant(sums):
    """The sums of neurons that never moved."""
    return Correlations(sums.count, sums.mean, np.zeros_like(sums.comoment))


def test_constant_neurons_have_no_redundancy(reference, measured, changed):
    """Every neuron of the candidate constant: no pair is left, no value, and the reason counts neurons."""
    activations = measured["nf4"].activations[2]
    still = {
        "correlations": constant(activations.correlations),
        "groups": tuple(constant(group) for group in activations.groups),
    }
    comparison = compare(reference, changed(measured["nf4"], activations=(2, still)), FEW)
    (found,) = (estimate for estimate in comparison.of("redundancy_change") if estimate.layer == 2)
    assert found.applicable
    assert found.value is found.low is found.high is None
    assert found.reason == "384 of 384 neurons are constant, so no pair is left"
    assert comparison.histograms[2]["candidate"] == (0,) * 10
    assert all(e.value is not None for e in comparison.of("redundancy_change") if e.layer != 2)


def test_what_the_references_answers_cannot_show_has_no_value(reference, candidate, changed):
    """A reference that is never right can lose no accuracy: neither value nor interval, and the reason."""
    wrong = np.zeros(len(reference.answers.index), dtype=np.bool_)
    models = [changed(model, answers={"correct": wrong}) for model in (reference, candidate)]
    for metric in ("accuracy_drop", "ace_drift"):
        (found,) = compare(*models, FEW).of(metric)
        assert (found.value, found.low, found.high, found.method) == (None, None, None, "")
        assert "the reference" in found.reason


def test_candidate_without_a_name_is_what_it_was_loaded_as(reference, candidate):
    """A name is for those that a run knows by another."""
    assert compare(reference, candidate, FEW).candidate == candidate.provenance.bits
    assert compare(reference, candidate, FEW, name="mine").candidate == "mine"


def test_nothing_is_ever_nan(comparison):
    """Every number of every estimate is finite or None."""
    for estimate in comparison.estimates:
        numbers = [estimate.value, estimate.low, estimate.high, estimate.reference, estimate.candidate]
        assert all(np.isfinite(number) for number in (*numbers, *estimate.details.values()) if number is not None)
