"""A measurement whose run was killed goes on at the first shard that is missing, and not a bit differs."""

import dataclasses
import shutil

import msgspec
import numpy as np
import pytest

from pytest_quantcheck.measuring import NoProgress
from pytest_quantcheck.options.attribution import parse_attribution
from pytest_quantcheck.storage import Cache

SHARDS = {"shard_size": 12, "batch_size": 4}
"""Of forty prompts: four shards, of three, three, two and two batches."""


class Killed(BaseException):
    """What ends a run in these tests."""


class Listener(NoProgress):
    """What each phase was called, and how many prompts it had; and which layers were given up, and when."""

    def __init__(self):
        self.phases, self.hopeless = [], []

    def start(self, label, total):
        self.phases.append((label, total))

    def decided(self, hopeless):
        self.hopeless.append((hopeless, len(self.phases)))


class Fragile:
    """Shards in a cache; the run ends with the saving of one, before it or after it."""

    def __init__(self, entry, number, when):
        self.entry, self.number, self.when = entry, number, when

    def load_shard(self, number, count):
        return self.entry.load_shard(number, count)

    def save_shard(self, number, count, shard):
        if number == self.number and self.when == "before":
            raise Killed
        self.entry.save_shard(number, count, shard)
        if number == self.number:
            raise Killed


@pytest.fixture
def entry(tmp_path):
    """An entry of a cache, which a run holds."""
    made = Cache(tmp_path / "cache").entry({"x": 1})
    with made.locked():
        yield made


@pytest.mark.parametrize(
    ("number", "when", "missing"), [(1, "before", 4), (1, "after", 3), (3, "before", 2), (4, "after", 0)]
)
@pytest.mark.parametrize(
    "bits", ["reference", pytest.param("int8", marks=pytest.mark.ci), pytest.param("nf4", marks=pytest.mark.ci)]
)
def test_killed_and_resumed_equals_undisturbed(
    run, loaded, quantized, prompts, reference, *, same, entry, bits, number, when, missing
):
    """Only what is missing is measured; the kernels of nf4 pack the weights in the first forward pass."""
    model, before = (loaded, None) if bits == "reference" else (quantized[bits], reference)
    expected = run(model, prompts, reference=before, **SHARDS)
    with pytest.raises(Killed):
        run(model, prompts, reference=before, finished=Fragile(entry, number, when), **SHARDS)
    listener = Listener()
    resumed = run(model, prompts, reference=before, finished=entry, progress=listener, **SHARDS)
    assert same(resumed, expected)
    assert sum(label.endswith("measuring") for label, _ in listener.phases) == missing


SETTINGS = {
    "choices": {"readout": "choices"},
    "shuffled": {"shuffle": 3, "batch_size": 5},
    "sampled neurons": {"redundancy_neurons": 50},
    "fixed nodes from zero": {"attribution": parse_attribution("nodes=3,baseline=zero"), "tokens": 100},
    "some prompts, backwards": {"index": [*range(30, 2, -1)]},
    "nothing converges": {"layers": (0,)},
}


@pytest.mark.parametrize("asked", SETTINGS)
def test_whatever_is_asked_for_is_resumed(run, loaded, prompts, *, same, entry, asked):
    """Under any settings, a shard that was kept is the one that would be measured."""
    settings = {"layers": (5,), "samples": 9} | SHARDS | SETTINGS[asked]
    expected = run(loaded, prompts, **settings)
    with pytest.raises(Killed):
        run(loaded, prompts, finished=Fragile(entry, 2, "after"), **settings)
    assert same(run(loaded, prompts, finished=entry, **settings), expected)


def test_same_files_under_other_names_are_resumed(run, loaded, prompts, same, entry):
    """Found at another place, as in the next job of a build: the record has the new names."""
    with pytest.raises(Killed):
        run(loaded, prompts, finished=Fragile(entry, 3, "after"), **SHARDS)
    renamed = dataclasses.replace(prompts, name="moved")
    resumed = run(loaded, renamed, finished=entry, revision="2", **SHARDS)
    expected = run(loaded, prompts, **SHARDS)
    names = {"prompt_set": "moved", "revision": "2"}
    expected = dataclasses.replace(expected, provenance=msgspec.structs.replace(expected.provenance, **names))
    assert same(resumed, expected)


def test_another_shard_in_its_place_is_measured_again(run, loaded, prompts, same, entry):
    """A shard is known by its prompts: one that was copied is not merged twice."""
    with pytest.raises(Killed):
        run(loaded, prompts, finished=Fragile(entry, 2, "after"), **SHARDS)
    shutil.copytree(entry.shards / "1-of-4", entry.shards / "2-of-4", dirs_exist_ok=True)
    assert same(run(loaded, prompts, finished=entry, **SHARDS), run(loaded, prompts, **SHARDS))


def test_the_first_shard_gives_up_a_layer_for_all(run, loaded, prompts):
    """At layer 0 attributions do not converge: no later shard attributes there. It says so before it is done itself."""
    listener = Listener()
    found = run(loaded, prompts, layers=(0, 5), samples=40, progress=listener, **SHARDS)
    shard = [total for label, total in listener.phases if label.endswith("attributing")]
    assert len(shard) == 4
    assert listener.hopeless == [(frozenset({0}), 2)]
    assert len(found.saliency[5].index) == 40
    assert len(found.saliency[0].index) == 5 < shard[0]
    assert np.isin(found.saliency[0].index, found.saliency[5].index).all()
