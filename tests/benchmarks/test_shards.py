"""The measuring pass in shards against the same pass in one, and what merging adds to adding up."""

import cProfile
import pstats
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest

from pytest_quantcheck.measuring import Plan, measure
from pytest_quantcheck.measuring.merging import merge_in_order
from pytest_quantcheck.measuring.streams import FOLLOWED, GROUPS
from pytest_quantcheck.options.attribution import AttributionMethod
from pytest_quantcheck.records import Activations, Answers, Correlations, Measurement
from tests.provenance import ANY


@pytest.mark.benchmark(group="shards")
def test_shards(model, prompts, race, full):
    """256 prompts in shards of the default size and in one; nothing is attributed.

    `profiled`: what the shards take more for handing over their sums and merging them, as a share of the pass in one.
    """
    loaded, chosen = model(dtype="bf16" if full else "fp32"), prompts(256 if full else 24)
    size = Plan().shard_size if full else 8

    def measured(shard_size):
        plan = Plan(attribution=AttributionMethod("off"), batch_size=16 if full else 4, shard_size=shard_size)
        return measure(loaded, chosen, plan, model="benchmark")

    found, peers = race(
        lambda: measured(size), {"one shard": lambda: measured(len(chosen))}, rounds=12, n_prompts=len(chosen)
    )
    (whole,) = peers.values()
    (in_shards, _), (alone, seconds) = _profiled(lambda: measured(size)), _profiled(lambda: measured(len(chosen)))
    assert in_shards.keys() == HANDING_OVER
    race.info["profiled"] = (sum(in_shards.values()) - sum(alone.values())) / seconds
    assert (found.answers.confidence == whole.answers.confidence).all()


HANDING_OVER = {("streams.py", "begin"), ("streams.py", "result"), ("merging.py", "_merged")}
"""What a shard does beside measuring, by file and function."""


def _profiled(measure):
    """Profile a measurement: the seconds of each function of `HANDING_OVER` that it called, and all seconds."""
    profile = cProfile.Profile()
    profile.runcall(measure)
    stats = pstats.Stats(profile)
    calls = [((Path(file).name, name), row[3]) for (file, _, name), row in stats.stats.items()]
    return {part: seconds for part, seconds in calls if part in HANDING_OVER}, stats.total_tt


@pytest.mark.benchmark(group="merging")
def test_merging(race, full):
    """One layer of 1,536 neurons in 256 shards, one after another, against adding their matrices up."""
    n, width = (256, 1536) if full else (5, 48)
    layers = [_layer(seed, width) for seed in range(min(n, 8))]  # larger than the caches
    shards = [_shard(number, layers[number % len(layers)]) for number in range(n)]

    def added():
        whole = np.zeros((width, width), np.float32)
        for shard in shards:
            whole += shard.activations[0].correlations.comoment
        return whole

    merged, _ = race(lambda: merge_in_order(shards), {"adding up": added}, n_prompts=n)
    assert merged.answers.index.tolist() == list(range(n))
    assert merged.activations[0].correlations.count == sum(s.activations[0].correlations.count for s in shards)


@pytest.mark.benchmark(group="merging")
def test_wide_layers(race, full):
    """One layer of 11,008 neurons in four shards: copying them, as they come from workers, against merging them."""
    n, width = (4, 11_008) if full else (3, 48)
    shards = [_shard(number, _layer(number, width)) for number in range(n)]

    def copied():
        for shard in shards:  # one after another, as they come
            found = deepcopy(shard)
        return found

    last, peers = race(copied, {"merging": lambda: merge_in_order(shards)}, rounds=3, n_prompts=n)
    race.info["gigabytes"] = n * 4 * width**2 / 1e9
    assert peers["merging"].answers.index.tolist() == list(range(n))
    assert np.array_equal(last.activations[0].correlations.comoment, shards[-1].activations[0].correlations.comoment)


def _layer(seed, width):
    generator = np.random.default_rng(seed)

    def sums(neurons):
        activations = generator.normal(size=(8, neurons)).astype(np.float32)
        return Correlations(8, activations.mean(0, dtype=np.float64), activations.T @ activations)

    followed = min(FOLLOWED, width)
    extremes = generator.normal(size=(GROUPS, width)).astype(np.float32)
    return Activations(
        minimum=extremes - 1,
        maximum=extremes,
        correlated=np.arange(width),
        correlations=sums(width),
        sample=np.arange(followed),
        groups=tuple(sums(followed) for _ in range(GROUPS)),
        rectified=False,
    )


def _shard(number, layer):
    """One prompt's answer, of ten probable tokens, and a layer."""
    one = np.zeros(1)
    answers = Answers(
        index=np.array([number]),
        token=one.astype(np.int64),
        confidence=one,
        correct=one.astype(bool),
        support=np.zeros((1, 10), np.int32),
        log_probs=np.zeros((1, 10), np.float32),
        rest=one.astype(np.float32),
        exact=False,
    )
    return Measurement(ANY, answers, {0: layer}, {}, ("yes",), 1)
