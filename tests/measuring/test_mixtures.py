"""What a mixture's experts do is measured expert by expert, over the tokens that are routed to each."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from pytest_quantcheck.analyses.redundancy import correlation
from pytest_quantcheck.measuring.merging import merge
from pytest_quantcheck.models import builtin
from pytest_quantcheck.models.loading import load
from pytest_quantcheck.models.neurons import find_neurons
from pytest_quantcheck.models.source import Source
from pytest_quantcheck.storage import load_measurement, save_baseline, save_measurement
from tests.upcycled import upcycle

LAYERS = (0, 5)
NOISE = 2e-5
"""What left padding and float32 kernels do to activations, relative to their size or to 1. Measured: 4e-6."""

ROUNDING = 5e-6
"""As in `test_activations.py`. Measured: 6e-7."""


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    """The built-in model as a mixture of five different experts."""
    folder = upcycle(builtin.DIRECTORY, tmp_path_factory.mktemp("mixture"), experts=5, noise=0.3)
    with load(Source(str(folder), dtype="fp32")) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def measured(run, mixture, prompts):
    """What it does, in batches with padding."""
    return run(mixture, prompts, layers=LAYERS, samples=6)


def test_little_memory_attributes_the_same(run, mixture, prompts):
    """Block by block, the experts of other blocks too."""
    half = copy.deepcopy(mixture.model).bfloat16()
    small = dataclasses.replace(mixture, model=half, neurons=find_neurons(half))
    found = [
        run(dataclasses.replace(small, attribution_memory=room), prompts, layers=(2,), samples=3).saliency[2]
        for room in (2**40, 1)
    ]
    assert np.array_equal(found[0].salient, found[1].salient)
    assert np.array_equal(found[0].error, found[1].error)


@pytest.fixture(scope="module")
def by_prompt(mixture, prompts):
    """Unpadded, one by one: for each layer each prompt's experts (tokens, 2), and gates (tokens, 2, neurons)."""
    seen = {layer: [] for layer in LAYERS}
    with torch.no_grad():
        for text in prompts.texts:
            inputs, chosen = {}, {}
            hooks = []
            for layer in LAYERS:
                ffn = mixture.model.model.layers[layer].mlp
                hooks += [
                    ffn.register_forward_pre_hook(lambda _m, args, to=inputs, at=layer: to.update({at: args[0][0]})),
                    ffn.gate.register_forward_hook(lambda _m, _a, out, to=chosen, at=layer: to.update({at: out[2]})),
                ]
            mixture.model(input_ids=mixture.tokenizer(text, return_tensors="pt")["input_ids"])
            for hook in hooks:
                hook.remove()
            for layer in LAYERS:
                weights = mixture.model.model.layers[layer].mlp.experts.gate_up_proj.double()
                gates = weights[:, : weights.shape[1] // 2][chosen[layer]] @ inputs[layer].double()[:, None, :, None]
                gates = gates[..., 0]
                seen[layer].append((chosen[layer].numpy(), (gates / (1 + (-gates).exp())).numpy()))
    return seen


def tokens_of(prompts_seen, expert):
    """The neurons of an expert on the tokens that reach it."""
    return np.concatenate([neurons[chosen == expert] for chosen, neurons in prompts_seen])


@pytest.mark.parametrize("layer", LAYERS)
def test_experts_are_those_of_each_token(measured, by_prompt, layer):
    """Prompt by prompt, without padding."""
    found = measured.experts[layer]
    assert found.lengths.tolist() == [len(chosen) for chosen, _ in by_prompt[layer]]
    for one, (chosen, _) in zip(found.by_prompt(), by_prompt[layer], strict=True):
        assert np.array_equal(np.sort(one, axis=1), np.sort(chosen, axis=1))


@pytest.mark.parametrize("layer", LAYERS)
def test_each_expert_is_seen_on_its_own_tokens(measured, by_prompt, layer):
    """Extremes of each group of prompts, counts and correlations, against NumPy."""
    assert layer not in measured.activations
    assert len(measured.experts[layer].neurons) == 5
    for expert, found in enumerate(measured.experts[layer].neurons):
        every = tokens_of(by_prompt[layer], expert)
        assert found.correlations.count == len(every)
        for group in range(16):
            own = tokens_of(by_prompt[layer][group::16], expert)
            assert found.groups[group].count == len(own)
            low, high = own.min(axis=0, initial=np.inf), own.max(axis=0, initial=-np.inf)
            np.testing.assert_allclose(found.minimum[group], low, rtol=NOISE, atol=NOISE)
            np.testing.assert_allclose(found.maximum[group], high, rtol=NOISE, atol=NOISE)
        r, _ = correlation(found.correlations)
        np.testing.assert_allclose(r, np.corrcoef(every[:, found.correlated].T), rtol=0, atol=ROUNDING)


@pytest.mark.ci
def test_pairs_take_the_memory_of_a_layer(run, mixture, prompts):
    """A fifth as many pairs in each of five experts, the same neurons in each."""
    found = run(mixture, prompts, layers=(0,), samples=1, redundancy_neurons=300).experts[0].neurons
    assert [len(one.correlated) for one in found] == [134] * 5
    assert all(np.array_equal(one.correlated, found[0].correlated) for one in found)
    assert run(mixture, prompts, layers=(0,), samples=1, redundancy_neurons=300).provenance.redundancy_neurons == 300


@pytest.mark.ci
def test_candidate_correlates_the_neurons_of_its_reference(run, mixture, prompts):
    """Whatever it was asked for."""
    reference = run(mixture, prompts, layers=(0,), samples=1, redundancy_neurons=300)
    candidate = run(mixture, prompts, layers=(0,), samples=1, redundancy_neurons="all", reference=reference)
    pairs = zip(reference.experts[0].neurons, candidate.experts[0].neurons, strict=True)
    assert all(np.array_equal(one.correlated, other.correlated) for one, other in pairs)


def test_salient_neurons_are_those_of_all_experts(measured):
    """Expert by expert; where the attributions converge, they are of experts that the prompt reaches."""
    saliency, experts = measured.saliency[5], measured.experts[5]
    assert saliency.salient.shape == (6, 5 * 384)
    assert saliency.converged.all()
    for row, prompt in enumerate(saliency.index):
        reached = set(np.unique(experts.by_prompt()[prompt]).tolist())
        assert set((np.flatnonzero(saliency.salient[row]) // 384).tolist()) <= reached
        assert saliency.salient[row].any()


def test_shards_merge_to_the_whole(run, mixture, prompts, measured):
    """Experts too, and where each prompt's tokens went."""
    parts = [run(mixture, prompts, layers=LAYERS, samples=6, index=range(start, 40, 3)) for start in (2, 0, 1)]
    merged = merge(parts)
    for layer in LAYERS:
        whole, found = measured.experts[layer], merged.experts[layer]
        assert np.array_equal(found.lengths, whole.lengths)
        assert np.array_equal(np.sort(found.chosen, axis=1), np.sort(whole.chosen, axis=1))
        for one, other in zip(found.neurons, whole.neurons, strict=True):
            np.testing.assert_allclose(one.minimum, other.minimum, rtol=NOISE, atol=NOISE)
            assert one.correlations.count == other.correlations.count


def test_it_is_stored(measured, tmp_path):
    """Bit for bit; as a baseline with rounded correlations."""
    save_measurement(measured, tmp_path / "whole")
    found = load_measurement(tmp_path / "whole")
    assert found.experts.keys() == measured.experts.keys()
    for layer in LAYERS:
        for name in ("chosen", "lengths"):
            assert np.array_equal(getattr(found.experts[layer], name), getattr(measured.experts[layer], name))
            assert getattr(found.experts[layer], name).dtype == getattr(measured.experts[layer], name).dtype
        for one, other in zip(found.experts[layer].neurons, measured.experts[layer].neurons, strict=True):
            assert np.array_equal(one.minimum, other.minimum)
            np.testing.assert_allclose(one.correlations.comoment, other.correlations.comoment, rtol=1e-4, atol=1e-4)
            assert [part.count for part in one.groups] == [part.count for part in other.groups]
    save_baseline(measured, tmp_path / "baseline", budget=4_000_000)
    thinned = load_measurement(tmp_path / "baseline")
    assert len(thinned.experts[0].neurons[0].correlated) < len(measured.experts[0].neurons[0].correlated)
    assert sum(path.stat().st_size for path in (tmp_path / "baseline").iterdir()) <= 4_000_000


@pytest.mark.ci
def test_shards_give_the_whole(run, mixture, prompts):
    """The same routes and extremes; correlations to float32 rounding."""
    plan = {"layers": (0,), "samples": 1, "batch_size": 8}
    expected = run(mixture, prompts, **plan)
    found = run(mixture, prompts, shard_size=8, **plan)
    assert np.array_equal(found.experts[0].chosen, expected.experts[0].chosen)
    for one, other in zip(found.experts[0].neurons, expected.experts[0].neurons, strict=True):
        assert np.array_equal(one.minimum, other.minimum)
        assert one.correlations.count == other.correlations.count
        r, expected_r = correlation(one.correlations)[0], correlation(other.correlations)[0]
        np.testing.assert_allclose(r, expected_r, rtol=0, atol=ROUNDING)
