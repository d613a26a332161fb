"""Neurons in another order are found again; damage is not taken for another order."""

import dataclasses
import time

import numpy as np
import pytest

from pytest_quantcheck.analyses import matching
from pytest_quantcheck.analyses.matching import find_order, reorder
from pytest_quantcheck.records import Activations, Correlations

GROUPS, TOKENS, WIDTH = 16, 640, 96


@pytest.fixture
def rng():
    """Seeded: every test sees the same neurons."""
    return np.random.default_rng(11)


def neurons(rng, width=WIDTH):
    """Activations (tokens, width) of neurons that have causes in common and are of different size."""
    causes = rng.normal(size=(TOKENS, 24)) @ rng.normal(size=(24, width)) / 5 + rng.normal(size=(TOKENS, width)) / 2
    values = causes * np.exp(rng.normal(0, 0.5, width))
    return values / (1 + np.exp(-values))


def sums(values):
    """Correlation sums of activations."""
    centred = values - values.mean(axis=0)
    return Correlations(len(values), values.mean(axis=0), (centred.T @ centred).astype(np.float32))


def record(values, correlated=None, sample=None):
    """What a measurement holds of activations; all neurons are correlated and followed if not told otherwise."""
    every = np.arange(values.shape[1])
    correlated, sample = every if correlated is None else correlated, every if sample is None else sample
    groups = [values[np.arange(len(values)) % GROUPS == g] for g in range(GROUPS)]
    return Activations(
        minimum=np.float32([group.min(axis=0) for group in groups]),
        maximum=np.float32([group.max(axis=0) for group in groups]),
        correlated=correlated,
        correlations=sums(values[:, correlated]),
        sample=sample,
        groups=tuple(sums(group[:, sample]) for group in groups),
        rectified=False,
    )


def order_of(places):
    """The order that undoes a permutation: where the reference's neuron i is in `values[:, places]`."""
    return np.argsort(places)


def noisy(values, rng, share):
    """Every activation wrong by so large a share of itself."""
    return values * (1 + share * rng.normal(size=values.shape))


@pytest.mark.parametrize("noise", [0.0, 0.003, 0.03])
def test_permuted_neurons_are_found(rng, noise):
    """Whatever the order, exact or rounded: each neuron is found where it went."""
    values, places = neurons(rng), rng.permutation(WIDTH)
    found = find_order(record(values), record(noisy(values, rng, noise)[:, places]))
    assert found.order.tolist() == order_of(places).tolist()
    assert found.moved == np.count_nonzero(places != np.arange(WIDTH))


def test_some_permuted_neurons_are_found(rng):
    """Three neurons that took each other's places are a permutation, too; all others stay."""
    values, places = neurons(rng), np.arange(WIDTH)
    places[[5, 40, 77]] = [40, 77, 5]
    found = find_order(record(values), record(noisy(values, rng, 0.01)[:, places]))
    assert found.order.tolist() == order_of(places).tolist()
    assert found.moved == 3


@pytest.mark.parametrize("noise", [0.0, 0.03, 0.3, 1.0])
def test_neurons_in_place_stay_there(rng, noise):
    """The same order, exact or with more and more noise, is never called another."""
    values = neurons(rng)
    assert find_order(record(values), record(noisy(values, rng, noise))).order is None


def test_duplicated_neurons_are_not_matched(rng):
    """Neurons that now do what others do, which are still there, have not moved: they are duplicates."""
    values = neurons(rng)
    copied = values.copy()
    copied[:, :12] = values[:, 12:24]
    found = find_order(record(values), record(copied))
    assert (found.order, found.moved) == (None, 0)


def test_other_neurons_are_not_matched(rng):
    """Another random layer has no neuron of this one."""
    found = find_order(record(neurons(rng)), record(neurons(rng)))
    assert (found.order, found.moved) == (None, 0)


def test_silenced_neurons_are_not_matched(rng):
    """Zeroed rows leave the others in place."""
    values = neurons(rng)
    found = find_order(record(values), record(values * (np.arange(WIDTH) % 8 > 0)))
    assert (found.order, found.moved) == (None, 0)


def test_a_scaled_layer_is_not_matched(rng):
    """Where all neurons are larger by a factor, some are like others; their correlations are their own."""
    values = neurons(rng)
    assert find_order(record(values), record(1.25 * values)).order is None


@pytest.mark.parametrize("rounds", [0, matching.ROUNDS])
def test_correlations_must_agree(rng, monkeypatch, rounds):
    """Permuted extremes with correlations of neurons in place are no permutation, were they not matched by these."""
    monkeypatch.setattr(matching, "ROUNDS", rounds)
    values, places = neurons(rng), rng.permutation(WIDTH)
    reference, permuted = record(values), record(values[:, places])
    candidate = dataclasses.replace(reference, minimum=permuted.minimum, maximum=permuted.maximum)
    found = find_order(reference, candidate)
    assert (found.order, found.moved) == (None, 0)
    assert rounds or "contradict" in found.reason


def test_equal_neurons_are_right_in_any_order(rng):
    """Of duplicated neurons either one may be the other; each of them gets a place, and their sums fit."""
    values, places = neurons(rng), rng.permutation(WIDTH)
    values[:, 1::8] = values[:, ::8]
    reference = record(values)
    found = find_order(reference, record(values[:, places]))
    assert sorted(found.order) == list(range(WIDTH))
    _, candidate = reorder(reference, record(values[:, places]), found.order, found.shared)
    assert np.array_equal(candidate.maximum, reference.maximum)
    np.testing.assert_allclose(candidate.correlations.comoment, reference.correlations.comoment, rtol=1e-5)


def test_constant_neurons_are_right_in_any_order(rng):
    """Half of a layer that never fires has one signature; those that are constant in both stay where they are."""
    values, places = neurons(rng), np.arange(WIDTH)
    values[:, ::2] = 0
    places[1::2] = rng.permutation(places[1::2])
    found = find_order(record(values), record(values[:, places]))
    assert found.order[1::2].tolist() == order_of(places)[1::2].tolist()
    assert found.order[::2].tolist() == list(range(0, WIDTH, 2))


def test_constant_neurons_that_moved_are_paired(rng):
    """Neurons that never fire go wherever one of their kind was."""
    values, places = neurons(rng), rng.permutation(WIDTH)
    values[:, :9] = 0
    found = find_order(record(values), record(values[:, places]))
    assert found.order[9:].tolist() == order_of(places)[9:].tolist()
    assert sorted(found.order[:9]) == sorted(order_of(places)[:9])


def test_damage_shows_behind_a_permutation(rng):
    """Permuted and silenced: what still does something is found, what was silenced is what is left."""
    values, places = neurons(rng), rng.permutation(WIDTH)
    silenced = values * (np.arange(WIDTH) >= 6)
    found = find_order(record(values), record(silenced[:, places]))
    assert found.order[6:].tolist() == order_of(places)[6:].tolist()
    _, candidate = reorder(record(values), record(silenced[:, places]), found.order, found.shared)
    assert np.flatnonzero(candidate.maximum.max(axis=0) == 0).tolist() == list(range(6))


def test_samples_keep_what_both_know(rng):
    """Where a sample is correlated and fewer are followed: the neurons that are in the samples of both models."""
    values, places = neurons(rng), rng.permutation(WIDTH)
    correlated = np.sort(rng.permutation(WIDTH)[:64])
    sample = correlated[::2]
    reference, candidate = (record(v, correlated, sample) for v in (values, values[:, places]))
    found = find_order(reference, candidate)
    order = found.order
    assert order.tolist() == order_of(places).tolist()
    before, after = reorder(reference, candidate, order, found.shared)
    both = [i for i in correlated if order[i] in correlated]
    assert before.correlated.tolist() == after.correlated.tolist() == both
    assert before.sample.tolist() == after.sample.tolist() == [i for i in sample if order[i] in sample]
    np.testing.assert_allclose(after.correlations.comoment, sums(values[:, both]).comoment, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(after.groups[3].mean, before.groups[3].mean, rtol=1e-5)


def test_too_few_known_in_both_is_said(rng):
    """A permutation that nothing can confirm is not applied, but its size and the reason are told."""
    values, places = neurons(rng), rng.permutation(WIDTH)
    few = np.arange(20)
    found = find_order(record(values, few, few), record(values[:, places], few, few))
    assert found.order is None
    assert found.moved > 80
    assert "too few" in found.reason


def test_groups_without_prompts_say_nothing(rng):
    """Extremes of groups that no prompt is in are infinite, and left out."""
    values, places = neurons(rng), rng.permutation(WIDTH)
    records = [record(values), record(values[:, places])]
    for one in records:
        one.minimum[12:], one.maximum[12:] = np.inf, -np.inf
    assert find_order(*records).order.tolist() == order_of(places).tolist()


def test_a_wide_layer_takes_seconds(rng):
    """4,096 neurons of which 512 are correlated: blocks of all distances, never all at once."""
    values, places = neurons(rng, 4096), rng.permutation(4096)
    correlated = np.sort(rng.permutation(4096)[:512])
    records = [record(v, correlated, correlated[::2]) for v in (values, values[:, places])]
    start = time.perf_counter()
    assert find_order(*records).order.tolist() == order_of(places).tolist()
    assert time.perf_counter() - start < 10  # 0.1 s alone on a core
