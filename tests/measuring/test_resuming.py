"""A measurement whose process was killed, resumed from its checkpoint, is that of an undisturbed run bit for bit."""

import dataclasses
import json
import os
import subprocess
import sys

import msgspec
import numpy as np
import pytest

from pytest_quantcheck.errors import StorageError
from pytest_quantcheck.measuring import NoProgress, resuming
from pytest_quantcheck.measuring.attributing import Attributor
from pytest_quantcheck.measuring.resuming import Stage
from pytest_quantcheck.models.encoding import encode
from pytest_quantcheck.models.gradients import float32_gradients
from pytest_quantcheck.options.attribution import parse_attribution
from pytest_quantcheck.storage import Checkpoint, load_measurement

PLAY = """
import json, os, signal, sys
from pathlib import Path

from pytest_quantcheck.measuring import Plan, NoProgress, measure, resuming
from pytest_quantcheck.models.loading import load
from pytest_quantcheck.models.source import Source
from pytest_quantcheck.prompts import read_prompts
from pytest_quantcheck.storage import Checkpoint, atomic, load_measurement, save_measurement

def die():
    os.kill(os.getpid(), signal.SIGKILL)

class Deadly(Checkpoint):
    def __init__(self, directory, when, which):
        super().__init__(directory)
        self.when, self.left = when, which

    def save(self, stage, arrays):
        self.left -= 1
        if self.left == 0 and self.when == "before":
            die()
        if self.left == 0 and self.when == "inside":
            atomic._write = lambda path, data: (path.write_bytes(data[: len(data) // 2]), die())
        super().save(stage, arrays)
        if self.left == 0 and self.when == "after":
            die()

class Resumed(NoProgress):
    def __init__(self):
        self.done = []

    def start(self, label, total, done=0):
        self.done.append(done)

def run(model, bits, checkpoint, target):
    reference = load_measurement(folder / "reference") if bits != "reference" else None
    plan, progress = Plan(samples=9, layers=(0, 5), batch_size=5), Resumed()
    found = measure(model, prompts, plan, model="b", reference=reference, progress=progress, checkpoint=checkpoint)
    save_measurement(found, target)
    target.with_suffix(".done").write_text(json.dumps(progress.done))

def in_a_process(*arguments):
    child = os.fork()
    if not child:
        try:
            run(*arguments)
        finally:
            os._exit(sys.exc_info()[0] is not None)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

folder, runs = Path(sys.argv[1]), json.loads(sys.argv[2])
prompts = read_prompts("builtin", samples=40)
resuming.SHARE = 0
endings = {}
for bits, stories in runs.items():
    with load(Source("builtin", dtype="fp32"), bits) as model:
        assert in_a_process(model, bits, None, folder / bits) == 0
        for name, deaths in stories.items():
            place, target = folder / "checkpoints" / bits / name, folder / f"{bits}-{name}"
            killed = [in_a_process(model, bits, Deadly(place, *death), target) for death in deaths]
            endings[f"{bits}-{name}"] = [*killed, in_a_process(model, bits, Checkpoint(place), target)]
print(json.dumps(endings))
"""
"""Measures the built-in model in processes that are forked off, each killed at its n-th saving, and then in one that
may live; prints how they ended. Of eight batches and three parts of the attribution, eleven states are saved."""

STORIES = {
    "before-the-first": ([["before", 1]], [0, 0]),
    "in-the-first": ([["inside", 1]], [0, 0]),
    "after-the-first": ([["after", 1]], [5, 0]),
    "in-the-middle": ([["inside", 6]], [25, 0]),
    "after-the-forward-pass": ([["after", 8]], [40, 0]),
    "while-attributing": ([["after", 9]], [40, 5]),
    "in-the-last": ([["inside", 11]], [40, 8]),
    "after-the-last": ([["after", 11]], [40, 9]),
    "three-times": ([["inside", 3], ["before", 4], ["after", 5]], [40, 8]),
}
"""When which saving killed each process, and how many prompts of each pass the last one found done."""

CANDIDATES = {
    "int8": ("after-the-first", "in-the-middle", "after-the-forward-pass", "in-the-last"),
    "nf4": (
        "in-the-middle",
        "after-the-forward-pass",
        "while-attributing",
    ),  # its kernels pack the weights in the first forward pass
}


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """Folder of the measurements of all stories, and each one's exit statuses."""
    folder = tmp_path_factory.mktemp("played")
    deaths = {name: story[0] for name, story in STORIES.items()}
    runs = {"reference": deaths} | {bits: {n: deaths[n] for n in names} for bits, names in CANDIDATES.items()}
    command = [sys.executable, "-W", "ignore", "-c", PLAY, str(folder), json.dumps(runs)]
    # A process that was forked waits for ever for the threads that OpenMP had in its parent.
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    played = subprocess.run(command, check=True, timeout=300, capture_output=True, text=True, env=alone)
    return folder, json.loads(played.stdout.splitlines()[-1])


@pytest.mark.ci
@pytest.mark.parametrize(
    ("bits", "story"),
    [("reference", name) for name in STORIES] + [(bits, name) for bits, names in CANDIDATES.items() for name in names],
)
def test_killed_and_resumed_equals_undisturbed(played, same, bits, story):
    """Killed before, in or after a saving, once or more often: no prompt is done again, and not a bit differs."""
    folder, endings = played
    deaths, done = STORIES[story]
    assert endings[f"{bits}-{story}"] == [-9] * len(deaths) + [0]
    assert json.loads((folder / f"{bits}-{story}.done").read_text()) == done
    assert same(load_measurement(folder / f"{bits}-{story}"), load_measurement(folder / bits))


class Stopped(Exception):  # noqa: N818 - no error
    """What stops a measurement in these tests."""


class Fragile(Checkpoint):
    """Stops the process's work after so many savings."""

    def __init__(self, directory, left):
        super().__init__(directory)
        self.left = left

    def save(self, stage, arrays):
        super().save(stage, arrays)
        self.left -= 1
        if not self.left:
            raise Stopped


@pytest.fixture
def always(monkeypatch):
    """Every batch is worth saving."""
    monkeypatch.setattr(resuming, "SHARE", 0)


@pytest.fixture
def stopped(always, run, loaded, prompts, tmp_path):
    """A checkpoint of a measurement of the reference that was stopped after its second batch."""
    with pytest.raises(Stopped):
        run(loaded, prompts, checkpoint=Fragile(tmp_path / "stopped", 2))
    return Checkpoint(tmp_path / "stopped")


OTHERS = {
    "plan": {"batch_size": 8},
    "tokens": {"tokens": 512},
    "attribution": {"attribution": parse_attribution("off")},
    "prompts": {"index": [*range(39)]},
}


@pytest.mark.parametrize("other", [*OTHERS, "bits", "model", "prompt set"])
def test_checkpoint_of_another_measurement_is_refused(run, loaded, quantized, prompts, stopped, *, other):
    """Another plan, model or prompt: the sentence names the directory and says to delete it."""
    model = quantized["nf4"] if other == "bits" else loaded
    if other == "model":
        model = dataclasses.replace(loaded, content_hash="sha256:0")
    if other == "prompt set":
        prompts = dataclasses.replace(prompts, golds=prompts.golds[::-1])
    with pytest.raises(StorageError, match=r"stopped holds an unfinished measurement of another model.*delete it"):
        run(model, prompts, checkpoint=stopped, **OTHERS.get(other, {}))


def test_another_revision_of_unknown_content_is_refused(always, run, loaded, prompts, tmp_path):
    """Where no file could be read, the name and the revision are all that tells one model from another."""
    unknown = dataclasses.replace(loaded, content_hash=None)
    with pytest.raises(Stopped):
        run(unknown, prompts, checkpoint=Fragile(tmp_path / "stopped", 2))
    with pytest.raises(StorageError, match="holds an unfinished measurement of another model"):
        run(unknown, prompts, checkpoint=Checkpoint(tmp_path / "stopped"), revision="1")


def test_same_files_under_other_names_are_resumed(run, loaded, prompts, same, stopped):
    """Found at another place, as in the next job of a build: not a prompt is lost, and the record has the new names."""
    renamed = dataclasses.replace(prompts, name="moved")
    resumed = run(loaded, renamed, checkpoint=stopped, revision="2")
    names = {"prompt_set": "moved", "revision": "2"}
    expected = run(loaded, prompts)
    expected = dataclasses.replace(expected, provenance=msgspec.structs.replace(expected.provenance, **names))
    assert same(resumed, expected)


SETTINGS = {
    "choices": {"readout": "choices"},
    "shuffled": {"shuffle": 3, "batch_size": 5},
    "sampled neurons": {"redundancy_neurons": 50},
    "fixed nodes from zero": {"attribution": parse_attribution("nodes=3,baseline=zero"), "tokens": 100},
    "a shard, backwards": {"index": [*range(30, 2, -1)]},
    "nothing converges": {"layers": (0,)},
}


@pytest.mark.parametrize("savings", [1, 4])
@pytest.mark.parametrize("asked", SETTINGS)
def test_whatever_is_asked_for_is_resumed(always, run, loaded, prompts, same, *, tmp_path, asked, savings):
    """Stopped in either pass, under any settings: not a bit differs."""
    settings = {"layers": (5,), "samples": 9} | SETTINGS[asked]
    expected = run(loaded, prompts, **settings)
    with pytest.raises(Stopped):
        run(loaded, prompts, checkpoint=Fragile(tmp_path, savings), **settings)
    assert same(run(loaded, prompts, checkpoint=Checkpoint(tmp_path), **settings), expected)


def test_checkpoint_against_another_reference_is_refused(always, run, loaded, quantized, *, prompts, tmp_path):
    """A candidate is compared at its reference's tokens: those of another are another measurement."""
    one, two = (
        run(loaded, prompts, attribution=attribution) for attribution in map(parse_attribution, ("off", "nodes=4"))
    )
    with pytest.raises(Stopped):
        run(quantized["nf4"], prompts, reference=one, checkpoint=Fragile(tmp_path, 1))
    with pytest.raises(StorageError, match="another model"):
        run(quantized["nf4"], prompts, reference=two, checkpoint=Checkpoint(tmp_path))


def test_a_layer_is_given_up_where_an_undisturbed_run_gives_it_up(always, loaded, prompts, tmp_path):
    """One of five converges: three more are tried before the next decision, though the first of those say enough."""
    encoded = encode(loaded.tokenizer, prompts.texts, chat=loaded.chat)
    targets = dict.fromkeys(range(4, 16), loaded.tokenizer.convert_tokens_to_ids("True"))

    def attribute(checkpoint=None):
        one_by_one = Attributor(loaded, encoded, parse_attribution("adaptive"), tokens=1, tolerance=0.2)
        with float32_gradients(loaded.model):
            return one_by_one.attribute([0], targets, NoProgress(), Stage("attribution", checkpoint))[0]

    expected = attribute()
    assert len(expected.index) == 8
    assert sum(expected.converged) < 3
    with pytest.raises(Stopped):
        attribute(Fragile(tmp_path, 7))
    obtained = attribute(Checkpoint(tmp_path))
    assert np.array_equal(obtained.index, expected.index)
    assert np.array_equal(obtained.salient, expected.salient)


def test_damaged_checkpoint_is_refused(run, loaded, prompts, stopped):
    """A flipped byte is found before anything is measured, and the file is named."""
    path = stopped.directory / "forward.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(StorageError, match=r"forward\.safetensors is not what was saved.*Delete it"):
        run(loaded, prompts, checkpoint=stopped)


def test_progress_says_what_is_done_already(run, loaded, prompts, stopped):
    """A resumed phase begins with the prompts of the run before, and ends at all of them."""
    phases = []

    class Listener:
        def start(self, label, total, done=0):
            phases.append([label, total, done, 0])

        def advance(self, n=1):
            phases[-1][3] += n

        def finish(self):
            pass

    run(loaded, prompts, progress=Listener(), checkpoint=stopped)
    assert phases == [["measuring", 40, 32, 8], ["attributing", 12, 0, 12]]


def test_saving_takes_its_share_of_the_time_only(monkeypatch, tmp_path):
    """Nothing before the share of a first guess, then nothing before the share of what the last one took."""
    now = 0.0
    monkeypatch.setattr(resuming.time, "monotonic", lambda: now)
    saved = []

    class Slow(Checkpoint):
        def save(self, *_):
            nonlocal now
            saved.append(now)
            now += 2.0

    stage = Stage("forward", Slow(tmp_path))
    for _ in range(400):
        now += 1.0
        stage.save(dict)
    first = resuming.FIRST * resuming.SHARE
    assert saved[:2] == [first, first + 2 + 2 * resuming.SHARE]
    assert len(saved) == 4
    stage.save(dict, finished=True)
    assert len(saved) == 5


def test_without_a_checkpoint_no_state_is_made(run, loaded, prompts, monkeypatch):
    """A measurement that nobody keeps costs nothing more."""

    def never(_self):
        raise AssertionError

    for accumulator in ("answers.AnswerCollector", "streams.LayerStream", "attributing._Outcomes"):
        monkeypatch.setattr(f"pytest_quantcheck.measuring.{accumulator}.state", never)
    run(loaded, prompts)
