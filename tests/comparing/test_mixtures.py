"""Mixtures are compared expert by expert, over the experts that tokens reach in both models."""

import dataclasses

import numpy as np
import pytest
import torch

from pytest_quantcheck.analyses.dead_neurons import new_extremes
from pytest_quantcheck.analyses.redundancy import correlation
from pytest_quantcheck.comparing import compare
from pytest_quantcheck.errors import ComparisonError
from pytest_quantcheck.judging import judge
from pytest_quantcheck.measuring import Plan, measure
from pytest_quantcheck.models import builtin
from pytest_quantcheck.models.loading import load
from pytest_quantcheck.models.source import Source
from pytest_quantcheck.profiles import load_profile
from pytest_quantcheck.records import Correlations
from tests.upcycled import upcycle

PLAN = Plan(samples=1, layers=(2,))


@pytest.fixture(scope="module")
def pair(prompts, tmp_path_factory):
    """A mixture of five experts made of the built-in model, and one whose experts are a little different."""
    found = []
    for noise in (0.1, 0.12):
        folder = upcycle(builtin.DIRECTORY, tmp_path_factory.mktemp("mixture"), experts=5, noise=noise)
        with load(Source(str(folder), dtype="fp32")) as loaded:
            found.append(measure(loaded, prompts, PLAN, model="mixture", reference=found[0] if found else None))
    return found


def of(comparison, metric):
    """The estimate of a metric at the only layer."""
    (estimate,) = comparison.of(metric)
    return estimate


def without_tokens(measurement, expert):
    """The same measurement where no token reached an expert."""
    (layer,) = measurement.experts
    mixture = measurement.experts[layer]
    one = mixture.neurons[expert]
    minimum, maximum = (extremes.numpy() for extremes in new_extremes(*one.minimum.shape))
    nothing = [
        Correlations(0, np.zeros(n), np.zeros((n, n), np.float32)) for n in (len(one.correlated), len(one.sample))
    ]
    empty = dataclasses.replace(
        one, minimum=minimum, maximum=maximum, correlations=nothing[0], groups=(nothing[1],) * len(one.groups)
    )
    others = [empty if number == expert else other for number, other in enumerate(mixture.neurons)]
    return dataclasses.replace(measurement, experts={layer: dataclasses.replace(mixture, neurons=tuple(others))})


def change_by_definition(reference, candidate, experts):
    """The mean change of r over pairs within experts, each expert counted by the reference's tokens."""
    moved, weights = [], []
    for expert in experts:
        before, after = (one.experts[2].neurons[expert].correlations for one in (reference, candidate))
        pairs = np.triu_indices(len(before.mean), 1)
        moved.append(np.abs(correlation(after)[0] - correlation(before)[0])[pairs].astype(np.float64).mean())
        weights.append(before.count)
    return np.average(moved, weights=weights)


def test_redundancy_is_within_experts(pair, sampling):
    """And its interval holds the value."""
    found = of(compare(*pair, sampling), "redundancy_change")
    assert found.value == pytest.approx(change_by_definition(*pair, range(5)), rel=1e-5)
    assert found.low < found.value < found.high
    assert found.details["neurons"] == 5 * 384


def test_faint_and_dead_neurons_are_those_of_all_experts(pair, sampling):
    """The scale is that of the layer."""
    before, after = (one.experts[2].neurons for one in pair)
    amplitudes = [
        np.concatenate([np.maximum(-one.minimum.min(axis=0), one.maximum.max(axis=0)) for one in model])
        for model in (before, after)
    ]
    faint = [model <= np.float32(0.1) * np.median(amplitudes[0]) for model in amplitudes]
    dead = [model < np.float32(0.1) for model in amplitudes]
    comparison = compare(*pair, sampling)
    assert of(comparison, "faint_neuron_churn").value == np.mean(faint[0] != faint[1])
    assert of(comparison, "dead_neuron_churn").value == np.mean(dead[0] != dead[1])
    assert of(comparison, "dead_neuron_churn").details["neurons"] == 5 * 384


@pytest.mark.parametrize("which", ["reference", "candidate", "both"])
def test_expert_that_no_token_reached_is_not_judged(pair, sampling, which):
    """It is counted and named."""
    reference, candidate = pair
    reference = without_tokens(reference, 3) if which != "candidate" else reference
    candidate = without_tokens(candidate, 3) if which != "reference" else candidate
    comparison = compare(reference, candidate, sampling)
    told = "layer 2: 1 of 5 experts are not judged, because too few tokens reached them: 3"
    assert told in comparison.notes
    found = of(comparison, "redundancy_change")
    assert found.value == pytest.approx(change_by_definition(*pair, (0, 1, 2, 4)), rel=1e-5)
    assert of(comparison, "dead_neuron_churn").details["neurons"] == 4 * 384
    assert not any("not judged" in note for note in compare(*pair, sampling).notes)


def test_layer_whose_experts_no_token_reached_is_unmeasured(pair, sampling):
    """Whatever the reason."""
    reference = pair[0]
    for expert in range(5):
        reference = without_tokens(reference, expert)
    for metric in ("dead_neuron_delta", "dead_neuron_churn", "faint_neuron_churn", "redundancy_change"):
        found = of(compare(reference, pair[1], sampling), metric)
        assert found.value is None
        assert found.applicable
        assert found.reason == "no FFN was reached by tokens of two groups of prompts in both models"


def test_experts_of_other_sizes_are_refused(pair, sampling):
    """They cannot be compared."""
    (layer,), other = pair[1].experts, pair[1]
    fewer = dataclasses.replace(other.experts[layer], neurons=other.experts[layer].neurons[:4])
    with pytest.raises(
        ComparisonError, match=r"the neurons of layer 2 \(1920 in the reference, 1536 in the candidate\)"
    ):
        compare(pair[0], dataclasses.replace(other, experts={layer: fewer}), sampling)


@pytest.mark.ci
def test_neurons_reordered_within_an_expert_are_matched(prompts, sampling, tmp_path):
    """Each is compared with itself: the function is the same."""
    folder = upcycle(builtin.DIRECTORY, tmp_path, experts=5, noise=0.1)
    with load(Source(str(folder), dtype="fp32")) as loaded:
        reference = measure(loaded, prompts, PLAN, model="mixture")
        experts = loaded.model.model.layers[2].mlp.experts
        order = torch.randperm(384, generator=torch.Generator().manual_seed(0))
        experts.gate_up_proj.data[1] = experts.gate_up_proj.data[1][torch.cat([order, 384 + order])]
        experts.down_proj.data[1] = experts.down_proj.data[1][:, order]
        candidate = measure(loaded, prompts, PLAN, model="mixture", reference=reference)
    comparison = compare(reference, candidate, sampling)
    assert any("of 1,920 neurons stand elsewhere in the candidate" in note for note in comparison.notes)
    assert of(comparison, "redundancy_change").value < 1e-4  # sums over neurons are taken in another order
    assert of(comparison, "faint_neuron_churn").value == 0


def test_router_agreement_is_a_mean_over_prompts(pair, sampling):
    """Each prompt is the mean of its tokens; a layer without experts has none."""
    before, after = (one.experts[2].by_prompt() for one in pair)
    expected = [
        np.mean([len({*a} & {*b}) / len({*a} | {*b}) for a, b in zip(one.tolist(), other.tolist(), strict=True)])
        for one, other in zip(before, after, strict=True)
    ]
    found = of(compare(*pair, sampling), "router_agreement")
    assert found.value == pytest.approx(np.mean(expected))
    assert found.low <= found.value <= found.high
    assert found.value < 1
    assert found.details == {"tokens": float(sum(map(len, before))), "experts": 5.0}
    assert of(compare(pair[0], pair[0], sampling), "router_agreement").value == 1


def test_dense_model_has_no_router_agreement(reference, measured, sampling):
    """Nothing is said of it, even where a profile has a limit."""
    comparison = compare(reference, measured["nf4"], sampling)
    assert comparison.of("router_agreement") == ()
    profile = load_profile("default@2").with_limits([("router_agreement", 0.9)])
    assert judge(comparison, "router_agreement", profile) is None


def test_router_agreement_is_judged(pair, sampling):
    """Below its limit it fails."""
    comparison = compare(*pair, sampling)
    for limit, status in ((0.1, "passed"), (0.9999, "failed")):
        profile = load_profile("default@2").with_limits([("router_agreement", limit)])
        assert judge(comparison, "router_agreement", profile).status == status
