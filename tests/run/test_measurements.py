"""A measurement comes from the baseline, the cache or the model, and is the same from wherever it comes."""

import json
import shutil
from hashlib import sha256

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from pytest_quantcheck.errors import ModelError, StorageError
from pytest_quantcheck.models import builtin
from pytest_quantcheck.options import AttributionMethod
from pytest_quantcheck.options.candidate import Released
from pytest_quantcheck.run.gate import Gate
from pytest_quantcheck.storage import Entry, save_measurement
from tests.gates import CountingGate, settings

NAMES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


@pytest.fixture
def folder(tmp_path):
    """A copy of the built-in model, to be changed and moved."""
    (tmp_path / "model").mkdir()
    for name in NAMES:
        shutil.copy(builtin.DIRECTORY / name, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture(scope="session")
def released(tmp_path_factory):
    """The built-in model as LLM.int8(), saved as it would be released."""
    place = tmp_path_factory.mktemp("released") / "small-int8"
    with Gate(settings()).load("int8") as loaded:
        loaded.model.save_pretrained(place)
        loaded.tokenizer.save_pretrained(place)
    return place


@pytest.fixture
def stored(tmp_path, folder):
    """A baseline of the copy."""
    place = tmp_path / "stored"
    Gate(settings(model=str(folder), baseline=str(place), update_baseline=True)).measure()
    return place


def values(comparison):
    """Every estimate's numbers by metric and layer."""
    return {(e.metric, e.layer): (e.value, e.low, e.high) for e in comparison.estimates}


def change_one_weight(folder):
    """A real change, in one number."""
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.2.mlp.up_proj.weight"][3, 5] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_baseline_needs_no_reference(folder, stored, released):
    """With the model moved away, a released checkpoint gets the numbers that its bit-width got beside the model."""
    beside = Gate(settings(model=str(folder), baseline=str(stored))).compare("int8")
    shutil.move(folder, folder.parent / "away")
    alone = CountingGate(settings(model=None, bits=(), candidate=(Released(str(released)),), baseline=str(stored)))
    assert alone.candidates == ("small-int8",)
    assert alone.model == str(folder)
    assert values(alone.compare("small-int8")) == values(beside)
    assert alone.loads == ["small-int8"]


def test_baseline_is_used_when_it_is_written(folder, tmp_path):
    """The run that writes it compares with what it wrote, so that it says what later runs will say."""
    asked = {"model": str(folder), "baseline": str(tmp_path / "stored"), "layers": (2, 3)}
    first = Gate(settings(**asked, update_baseline=True)).compare("int8")
    assert values(Gate(settings(**asked)).compare("int8")) == values(first)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"samples": 13}, r"prompt_hash \('.{64}' in the baseline, '.{64}' asked for\)"),
        ({"seed": 1}, r"prompt_hash .*; seed \(0 in the baseline, 1 asked for\)"),
        ({"layers": (1, 2)}, r"layers \(\(2,\) in the baseline, \(1, 2\) asked for\)"),
        ({"readout": "choices"}, r"readout \('token' in the baseline, 'choices' asked for\)"),
        ({"dtype": "fp32"}, r"dtype \('bf16' in the baseline, 'fp32' asked for\)"),
        ({"revision": "v2"}, r"revision \(None in the baseline, 'v2' asked for\)"),
        ({"attribution": AttributionMethod("paper", 50)}, r"attribution \('off,samples=64' in the baseline, 'paper,"),
        ({"template": "Q: {prompt}"}, r"template \('raw:\{prompt\}' in the baseline, 'raw:Q: \{prompt\}' asked"),
    ],
)
def test_baseline_measured_otherwise_is_refused(folder, stored, changes, said):
    """Before anything is loaded; each difference is named, with what to do."""
    with pytest.raises(StorageError, match=rf"stored/builtin was measured otherwise: (.*; )?{said}.*update-baseline"):
        Gate(settings(model=str(folder), baseline=str(stored), **changes))


def test_baseline_of_another_model_is_refused(folder, stored):
    """Where the reference's files are at hand, what is in them must be what was measured."""
    change_one_weight(folder)
    gate = CountingGate(settings(model=str(folder), baseline=str(stored)))
    with pytest.raises(StorageError, match="was measured on other files than those of"):
        gate.compare("int8")
    assert gate.loads == []


def test_missing_baseline_says_how_to_make_one(folder, tmp_path):
    """At once."""
    with pytest.raises(StorageError, match=r"nowhere/builtin/measurement.safetensors does not exist"):
        Gate(settings(model=str(folder), baseline=str(tmp_path / "nowhere")))


def test_measurement_of_a_candidate_is_no_baseline(folder, tmp_path):
    """What was measured quantized is no reference."""
    save_measurement(Gate(settings(model=str(folder))).measure("int8"), tmp_path / "stored" / "builtin")
    with pytest.raises(StorageError, match=r"bits \('int8' in the baseline, 'reference' asked for\)"):
        Gate(settings(model=str(folder), baseline=str(tmp_path / "stored")))


def test_other_conditions_are_reported(folder, stored):
    """Another batch size is no reason to refuse; the verdict says so."""
    verdict = Gate(settings(model=str(folder), baseline=str(stored), batch_size=4)).judge("kl_divergence", "int8")
    assert verdict.conditions == ("batch size 16 for the reference, 4 for the candidate",)


def test_cache_spares_every_load(folder, tmp_path):
    """A second gate takes both measurements from the cache, and finds the same to the last bit."""
    asked = settings(model=str(folder), cache=str(tmp_path / "cache"))
    first, again = CountingGate(asked), CountingGate(asked)
    before = first.compare("int8")
    assert values(again.compare("int8")) == values(before)
    assert (first.loads, again.loads) == (["reference", "int8"], [])
    assert np.array_equal(first.measure().answers.log_probs, again.measure().answers.log_probs)


def test_without_a_cache_the_numbers_are_the_same(folder, tmp_path):
    """Nothing is rounded on the way."""
    kept = Gate(settings(model=str(folder), cache=str(tmp_path / "cache"))).compare("int8")
    assert values(Gate(settings(model=str(folder))).compare("int8")) == values(kept)


def test_same_name_and_other_weights_share_nothing(folder, tmp_path):
    """The key is what is in the files: the same path with one other weight is measured again."""
    asked = settings(model=str(folder), cache=str(tmp_path / "cache"))
    before = CountingGate(asked).compare("int8")
    change_one_weight(folder)
    changed = CountingGate(asked)
    assert values(changed.compare("int8")) != values(before)
    assert changed.loads == ["reference", "int8"]


def test_same_weights_under_another_name_are_shared(folder, tmp_path):
    """A copy of the files elsewhere is the same model; the record has the name of this run."""
    cache = str(tmp_path / "cache")
    Gate(settings(model=str(folder), cache=cache)).compare("int8")
    moved = shutil.move(folder, tmp_path / "moved")
    again = CountingGate(settings(model=str(moved), cache=cache))
    assert again.compare("int8").candidate_provenance.model == str(moved)
    assert again.loads == []


def test_same_prompts_under_another_name_are_shared(folder, tmp_path):
    """A prompt file that was renamed holds the same prompts; the record has the name of this run."""
    cache = str(tmp_path / "cache")
    shutil.copy(builtin.PROMPTS, tmp_path / "old.jsonl")
    asked = {"model": str(folder), "cache": cache, "template": "raw"}
    Gate(settings(**asked, prompts=(str(tmp_path / "old.jsonl"),))).compare("int8")
    new = shutil.move(tmp_path / "old.jsonl", tmp_path / "new.jsonl")
    again = CountingGate(settings(**asked, prompts=(str(new),)))
    assert again.compare("int8").prompt_set == "new"
    assert again.measure().provenance.prompt_set == "new"
    assert again.loads == []


def test_locks_are_taken_in_one_order(folder, tmp_path, monkeypatch):
    """Two runs that name their prompt sets the other way round would each wait for what the other holds."""
    shutil.copy(builtin.PROMPTS, tmp_path / "other.jsonl")
    lines = (tmp_path / "other.jsonl").read_text().splitlines()
    (tmp_path / "other.jsonl").write_text("\n".join(lines[:12]))
    taken, locked = [], Entry.locked
    monkeypatch.setattr(Entry, "locked", lambda entry, waiting: taken.append(entry.directory) or locked(entry, waiting))
    for prompts in (("builtin", str(tmp_path / "other.jsonl")), (str(tmp_path / "other.jsonl"), "builtin")):
        Gate(settings(model=str(folder), cache=str(tmp_path / "cache"), prompts=prompts)).measure(prompts="builtin")
    assert len(set(taken)) == 2
    assert taken[:2] == taken[2:]


def test_other_settings_share_nothing(folder, tmp_path):
    """What is measured is part of the key."""
    cache = str(tmp_path / "cache")
    Gate(settings(model=str(folder), cache=cache)).measure()
    changes = {"layers": (3,), "samples": 13, "batch_size": 4, "dtype": "fp32", "redundancy_neurons": 256}
    for change in ({name: value} for name, value in changes.items()):
        other = CountingGate(settings(model=str(folder), cache=cache, **change))
        other.measure()
        assert other.loads == ["reference"], change


def test_control_is_never_taken_from_the_cache(folder, tmp_path):
    """It tests the gate as it is now: only its reference is kept, and it is made again from a model that is loaded."""
    asked = settings(model=str(folder), cache=str(tmp_path / "cache"), controls=True)
    for loads in (2, 1):
        gate = CountingGate(asked)
        gate.compare("null-kernels")
        assert len(gate.loads) == loads
        assert len(list((tmp_path / "cache").glob("*/measurement.safetensors"))) == 1


def test_candidate_of_another_reference_is_not_taken_from_the_cache(folder, tmp_path, released):
    """Its measurement follows the reference's answers."""
    cache, candidate = str(tmp_path / "cache"), (Released(str(released)),)
    Gate(settings(model=str(folder), cache=cache, bits=(), candidate=candidate)).compare("small-int8")
    change_one_weight(folder)
    other = CountingGate(settings(model=str(folder), cache=cache, bits=(), candidate=candidate))
    other.compare("small-int8")
    assert other.loads == ["reference", "small-int8"]


def test_candidate_with_another_chat_template_is_refused(folder, tmp_path, released):
    """The commonest silent release bug: named before anything is measured."""
    other = tmp_path / "other"
    shutil.copytree(released, other)
    (other / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    gate = Gate(settings(model=str(folder), bits=(), candidate=(Released(str(other)),)))
    with pytest.raises(ModelError, match=r"other would not be served as the reference is: tokenizer.chat_template is "):
        gate.compare("other")


def test_candidate_with_another_vocabulary_is_refused(folder, tmp_path, released):
    """Two words in each other's place."""
    other = tmp_path / "other"
    shutil.copytree(released, other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    one, two = sorted(vocabulary)[10:12]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    gate = Gate(settings(model=str(folder), bits=(), candidate=(Released(str(other)),)))
    with pytest.raises(ModelError, match=r"other is not the reference quantized: tokenizer.vocabulary is "):
        gate.compare("other")


def test_checkpoint_that_is_not_quantized_is_refused(folder):
    """The reference itself, released by mistake."""
    gate = Gate(settings(model=str(folder), bits=(), candidate=(Released(str(folder)),)))
    with pytest.raises(ModelError, match="quantiz"):
        gate.compare("model")


def test_candidate_that_cannot_be_loaded_costs_no_time(folder, tmp_path):
    """What shows without loading is said before the reference is measured; said again when asked again."""
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(40))
    (tmp_path / "empty").mkdir()
    wrong = {
        str(folder): "is not quantized",
        str(tmp_path / "empty"): "found no config.json",
        str(tmp_path / "bad.gguf"): "gguf",
    }
    gate = CountingGate(settings(model=str(folder), bits=(), candidate=tuple(map(Released, wrong))))
    for name, said in zip(gate.candidates, wrong.values(), strict=True):
        for _ in range(2):
            with pytest.raises(ModelError, match=said):
                gate.compare(name)
    assert gate.loads == []


def test_quantized_reference_is_refused(released):
    """It would be compared with itself, and nothing would have moved; said before anything is measured."""
    with pytest.raises(ModelError, match="is quantized already, and a reference is at full precision"):
        Gate(settings(model=str(released)))


@pytest.mark.parametrize("where", ["index", "config"])
def test_weights_elsewhere_are_refused(folder, tmp_path, where):
    """They would be in no hash, and a cache would take one model for another."""
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    (other / "sub").mkdir()
    (other / "model.safetensors").rename(other / "sub" / "model.safetensors")
    if where == "index":
        index = {"weight_map": {"model.norm.weight": "sub/model.safetensors"}}
        (other / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        config = json.loads((other / "config.json").read_text()) | {"transformers_weights": "sub/model.safetensors"}
        (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"expected the name of a file beside it, got 'sub/model.safetensors'"):
        Gate(settings(model=str(other))).measure()


def test_released_file_that_was_changed_since_is_refused(folder, tmp_path, released):
    """A flipped bit too small to be measured is seen by the checksums that the release brings."""
    other = tmp_path / "other"
    shutil.copytree(released, other)
    weights = other / "model.safetensors"
    (other / "SHA256SUMS").write_text(f"{sha256(weights.read_bytes()).hexdigest()}  model.safetensors\n")
    asked = settings(model=str(folder), bits=(), candidate=(Released(str(other)),))
    said = Gate(asked).compare("other").notes[-1]
    assert "SHA256SUMS beside them covers 1 of" in said
    assert "config.json" in said
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ModelError, match=r"model.safetensors is not the file that SHA256SUMS beside it names"):
        Gate(asked).compare("other")


def test_candidate_from_a_hub(folder, tmp_path, released, monkeypatch):
    """A hub id is what was fetched of it; with a cache it is known by its content, like every other."""
    snapshot = tmp_path / "hub" / "models--example--small" / "snapshots" / ("a" * 40)
    shutil.copytree(released, snapshot)
    (tmp_path / "hub" / "models--example--small" / "refs").mkdir()
    (tmp_path / "hub" / "models--example--small" / "refs" / "v1").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    asked = {"model": str(folder), "bits": (), "cache": str(tmp_path / "cache")}
    found = Gate(settings(**asked, candidate=(Released("example/small", "v1"),))).compare("small")
    where = found.candidate_provenance
    assert (where.model, where.revision) == ("example/small", "v1")
    again = CountingGate(settings(**asked, candidate=(Released(str(released)),)))
    assert values(again.compare("small-int8")) == values(found)
    assert again.loads == []
