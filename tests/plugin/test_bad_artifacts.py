"""Damaged or foreign checkpoints, baselines and caches: a red run with one sentence, and every file as it was."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from pytest_quantcheck.run.gate import Gate
from pytest_quantcheck.run.local_models import LocalModels
from tests.gates import settings

QUICK = ("--quantcheck-only", "--quantcheck-samples=12", "--quantcheck-layers=2", "--quantcheck-attribution=off")
ONE = "quantcheck::test_kl_divergence"


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """The built-in model as int8, its reference's baseline, and a cache with all of it."""
    place = tmp_path_factory.mktemp("made")
    gate = Gate(settings(cache=str(place / "cache"), baseline=str(place / "stored"), update_baseline=True))
    gate.compare("int8")
    with gate.load("int8") as loaded:
        loaded.model.save_pretrained(place / "small")
        loaded.tokenizer.save_pretrained(place / "small")
    return place


@pytest.fixture
def place(made, tmp_path):
    """A copy of all that, to be damaged."""
    return Path(shutil.copytree(made, tmp_path / "place"))


@pytest.fixture
def red(gate, place):
    """Runs one packaged test that must not pass; gives its sentence, and sees to it that no file has changed."""

    def run(*arguments, model="builtin", test=ONE):
        before = content(place)
        named = [f"--quantcheck-model={model}"] if model else []
        found = gate(*named, *QUICK, test, *arguments)
        assert found.status in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.USAGE_ERROR), found.text
        assert "Traceback" not in found.text
        assert "INTERNALERROR" not in found.text
        assert content(place) == before
        if found.status == pytest.ExitCode.USAGE_ERROR:
            (sentence,) = (line.removeprefix("ERROR: ") for line in found.lines if line)
            return sentence
        assert "1 error in" in found.lines[-1]
        start = next(i for i, line in enumerate(found.lines) if " quantcheck::test_kl_divergence[" in line)
        return found.lines[start + 1]

    return run


def content(place):
    """Every file's bytes, but for the lock files of the cache, which come and go."""
    return {path: path.read_bytes() for path in place.rglob("*") if path.is_file() and path.suffix != ".lock"}


def candidate(place, name="small"):
    """The option that names a checkpoint of the place."""
    return f"--quantcheck-candidate={place / name}"


def cut(path, by=1000):
    """Take away a file's end."""
    path.write_bytes(path.read_bytes()[:-by])


def test_truncated_weights_of_a_candidate(red, place):
    """As an interrupted upload leaves them."""
    cut(place / "small" / "model.safetensors")
    said = red(candidate(place))
    assert f"{place / 'small' / 'model.safetensors'} is damaged: " in said
    assert "Check that the files are complete and belong together." in said


def test_configuration_that_is_no_json(red, place):
    """Cut in the middle."""
    cut(place / "small" / "config.json", 100)
    said = red(candidate(place))
    assert f"{place / 'small' / 'config.json'} is damaged: expected a JSON object" in said


def test_candidate_without_files(red, place):
    """An empty folder."""
    (place / "empty").mkdir()
    assert f"{place / 'empty'}: expected a checkpoint, found no config.json" in red(candidate(place, "empty"))


def test_file_that_is_no_gguf(red, place):
    """Its name says so, and its first bytes do not."""
    (place / "model.gguf").write_bytes(b"GGUX" + bytes(100))
    assert f"{place / 'model.gguf'}" in red(candidate(place, "model.gguf"))


def test_candidate_that_leads_nowhere(red, place):
    """Refused before anything is collected."""
    said = red(candidate(place, "nowhere"))
    assert said == f"{place / 'nowhere'}: no such file or directory; check the path (a hub id is ORGANISATION/NAME)"


def test_candidate_that_is_on_no_hub(red, place, monkeypatch):
    """An id that is not in the local cache, without a network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    said = red("--quantcheck-candidate=nobody/no-such-model@v1")
    assert said.startswith("nobody/no-such-model cannot be fetched: ")
    assert said.endswith("Check the hub id and its revision, the network and HF_HUB_OFFLINE.")


def test_pickled_weights_of_a_candidate(red, place):
    """They can run any code, and are not opened unless that is allowed by name."""
    (place / "small" / "model.safetensors").unlink()
    torch.save({"lm_head.weight": torch.zeros(2, 2)}, place / "small" / "pytorch_model.bin")
    said = red(candidate(place))
    assert "If its weights are pickled (pytorch_model.bin) and you trust them: --quantcheck-allow-pickle." in said


def test_candidate_with_code_of_its_own(red, place):
    """Not run unless that is allowed by name."""
    config = place / "small" / "config.json"
    own = '"auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}, "model_type": "own-type",'
    config.write_text(config.read_text().replace('"model_type": "llama",', own))
    (place / "small" / "own.py").write_text("raise SystemExit('the code ran')")
    assert "allow it with --quantcheck-trust-remote-code if you trust it" in red(candidate(place))


@pytest.mark.parametrize("position", [100, -1], ids=["header", "arrays"])
def test_baseline_with_one_wrong_byte(red, place, position):
    """Its hash does not hold."""
    path = place / "stored" / "builtin" / "measurement.safetensors"
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    said = red(candidate(place), f"--quantcheck-baseline={place / 'stored'}", model=None)
    assert str(path) in said
    assert "measure again" in said


@pytest.fixture
def unwritable(place):
    """Makes a folder one that cannot be written to, for root too: a read-only file system."""
    mounted = []

    def make(path):
        path.mkdir(exist_ok=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "ro,size=64k", "tmpfs", path], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip("mounting takes root")
        mounted.append(path)
        return path

    yield make
    for path in mounted:
        subprocess.run(["umount", path], check=True)


def test_baseline_that_is_a_link_elsewhere(refused, tmp_path):
    """Found out before anything is loaded; the file that it leads to is another one's."""
    stored = tmp_path / "stored" / "builtin" / "measurement.safetensors"
    stored.parent.mkdir(parents=True)
    stored.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_bytes(b"mine")
    said = refused(f"--quantcheck-baseline={tmp_path / 'stored'}", "--quantcheck-update-baseline")
    assert f"cannot write {stored}: expected a regular file or nothing there, found a link to " in said
    assert (tmp_path / "elsewhere").read_bytes() == b"mine"


@pytest.mark.parametrize("option", ["cache", "baseline"])
def test_place_that_cannot_be_written(red, place, unwritable, option, monkeypatch):
    """Found out before anything is loaded."""
    loaded = []
    monkeypatch.setattr(LocalModels, "load", lambda _models, target: loaded.append(target.name))
    where = unwritable(place / "read-only")
    more = ("--quantcheck-update-baseline",) if option == "baseline" else ()
    said = red(f"--quantcheck-{option}={where}", "--quantcheck-bits=8", *more)
    assert str(where) in said
    assert "written" in said or "Read-only file system" in said
    assert not loaded
