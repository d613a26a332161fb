"""Neurons that stand in another order: recognised, said so, and compared with themselves."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from pytest_quantcheck.comparing import compare
from pytest_quantcheck.comparing.answer_estimates import prompt_estimates
from pytest_quantcheck.measuring import Plan, measure
from pytest_quantcheck.models.neurons import find_neurons
from pytest_quantcheck.options.attribution import AttributionMethod

PLAN = Plan(samples=12)
LAYERED = ("dead_neuron_churn", "faint_neuron_churn", "salient_overlap", "redundancy_change")


def permuted(loaded, layers, *, moved=384, columns=True):
    """A copy whose FFN neurons of some layers stand in another order, the first `moved` of a seeded shuffle."""
    model, generator = copy.deepcopy(loaded.model), torch.Generator().manual_seed(7)
    for layer in layers:
        mlp, order = model.model.layers[layer].mlp, torch.arange(384)
        some = torch.randperm(384, generator=generator)[:moved]
        order[some] = some.roll(1)
        mlp.gate_proj.weight.data = mlp.gate_proj.weight.data[order]
        if columns:
            mlp.up_proj.weight.data = mlp.up_proj.weight.data[order]
            mlp.down_proj.weight.data = mlp.down_proj.weight.data[:, order]
    return dataclasses.replace(loaded, model=model, neurons=find_neurons(model), bits="nf4")


@pytest.fixture(scope="module")
def measured_again(models, prompts, reference):
    """Measure a model against the reference."""

    def again(loaded, plan=PLAN, against=reference):
        return measure(loaded, prompts, plan, model="builtin", reference=against)

    return again


@pytest.fixture(scope="module")
def shuffled(models, measured_again):
    """Two of three layers in another order."""
    return measured_again(permuted(models["reference"], (2, 5)))


def values(comparison, metric):
    """The metric's value at each layer."""
    return {estimate.layer: estimate.value for estimate in comparison.of(metric) if estimate.applicable}


def test_a_permutation_moves_no_metric(reference, shuffled, sampling):
    """The same function in another order: every metric of the neurons is at its best."""
    comparison = compare(reference, shuffled, sampling)
    assert values(comparison, "salient_overlap") == {2: 1, 5: 1}
    assert max(values(comparison, "redundancy_change").values()) < 1e-5
    for metric in ("dead_neuron_delta", "dead_neuron_churn", "faint_neuron_churn"):
        assert set(values(comparison, metric).values()) == {0}


def test_the_notes_say_what_moved(reference, shuffled, sampling):
    """One sentence for each such layer, with how many neurons moved."""
    notes = [note for note in compare(reference, shuffled, sampling).notes if note.startswith("layer")]
    assert [note.split(" neurons ")[0] for note in notes] == ["layer 2: 384 of 384", "layer 5: 384 of 384"]


def test_the_details_say_what_moved(reference, shuffled, sampling):
    """Every estimate of such a layer carries the number; those of another do not."""
    comparison = compare(reference, shuffled, sampling)
    for metric in LAYERED:
        moved = {estimate.layer: estimate.details.get("moved_neurons") for estimate in comparison.of(metric)}
        assert moved == {0: None, 2: 384, 5: 384}


def test_answers_have_no_neurons_that_moved(models, measured_again, reference, sampling):
    """Also where the first layer's did."""
    comparison = compare(reference, measured_again(permuted(models["reference"], (0,))), sampling)
    moved = {estimate.layer for estimate in comparison.estimates if "moved_neurons" in estimate.details}
    assert moved == {0}


def test_answers_are_not_touched(reference, shuffled, sampling):
    """Metrics of the answers are those of what the models said."""
    expected = list(prompt_estimates(reference, shuffled, sampling))
    assert list(compare(reference, shuffled, sampling).estimates[: len(expected)]) == expected


@pytest.fixture(scope="module")
def shuffled_damage(models, measured_again):
    """The damaged model with its damaged layers in another order."""
    return measured_again(permuted(models["damaged"], (2, 5)))


@pytest.mark.parametrize("metric", LAYERED)
def test_damage_is_not_matched_away(reference, measured, shuffled_damage, sampling, metric):
    """Damaged and permuted reads as damaged: the estimates are those of the damage in the old order."""
    plain, matched = (compare(reference, model, sampling) for model in (measured["damaged"], shuffled_damage))
    assert values(matched, metric) == pytest.approx(values(plain, metric), rel=0.02, abs=1e-5)


def test_some_neurons_of_a_layer(models, measured_again, reference, sampling):
    """Five neurons in each other's places are found among those that stayed."""
    comparison = compare(reference, measured_again(permuted(models["reference"], (2,), moved=5)), sampling)
    assert any(note.startswith("layer 2: 5 of 384 neurons ") for note in comparison.notes)
    assert values(comparison, "salient_overlap")[2] == 1
    assert values(comparison, "redundancy_change")[2] < 1e-5


def test_rows_without_their_columns_are_damage(models, measured_again, reference, sampling):
    """Gate rows in another order, nothing else: the neurons are found, but what they do to answers is not theirs."""
    candidate = measured_again(permuted(models["reference"], (2,), columns=False))
    comparison = compare(reference, candidate, sampling)
    assert values(comparison, "redundancy_change")[5] > 0.02
    assert values(comparison, "salient_overlap")[2] < 0.2


def test_a_sample_keeps_the_neurons_known_in_both(models, measured_again, sampling):
    """300 of 384 neurons are correlated: the value is of those in both samples, the note and details say how many."""
    plan = dataclasses.replace(PLAN, attribution=AttributionMethod("off"), redundancy_neurons=300)
    before = measured_again(models["reference"], plan, against=None)
    after = measured_again(permuted(models["reference"], (2,)), plan, against=before)
    comparison = compare(before, after, sampling)
    found = next(estimate for estimate in comparison.of("redundancy_change") if estimate.layer == 2)
    known = int(found.details["neurons"])
    assert 200 < known < 280  # about 300 * 300 / 384
    assert found.value < 1e-5
    assert any(f"correlations are those of {known} neurons known in both" in note for note in comparison.notes)


def test_no_followed_pair_leaves_the_whole_range(reference, measured, sampling):
    """Where no two followed neurons are in both samples nothing is known of the width, and that is what it says."""
    alone, moved = follow_one(reference), follow_one(measured["nf4"])
    for candidate in (alone, moved):
        for estimate in compare(alone, candidate, sampling).of("redundancy_change"):
            assert (estimate.value > 0) == (candidate is moved)
            assert (estimate.low, estimate.high) == (0, 2)
            assert estimate.details["followed_neurons"] == 1


def follow_one(model):
    """A measurement that follows one neuron of each layer."""
    layers = {
        layer: dataclasses.replace(
            found, sample=found.sample[:1], groups=tuple(cut(group, np.arange(1)) for group in found.groups)
        )
        for layer, found in model.activations.items()
    }
    return dataclasses.replace(model, activations=layers)


def test_what_cannot_be_confirmed_is_said(models, measured_again, sampling):
    """Twelve correlated neurons confirm no match: neurons are compared by index, and a note says why."""
    plan = dataclasses.replace(PLAN, attribution=AttributionMethod("off"), redundancy_neurons=12)
    before = measured_again(models["reference"], plan, against=None)
    after = measured_again(permuted(models["reference"], (2,)), plan, against=before)
    comparison = compare(before, after, sampling)
    assert any(
        "layer 2: 384 neurons may stand elsewhere in the candidate, which could not be settled (" in note
        for note in comparison.notes
    )
    assert values(comparison, "redundancy_change")[2] > 0.1


def cut(sums, neurons):
    """The sums of some neurons."""
    return dataclasses.replace(sums, mean=sums.mean[neurons], comoment=sums.comoment[np.ix_(neurons, neurons)])
