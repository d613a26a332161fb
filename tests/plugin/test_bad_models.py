"""A model that cannot be gated: one sentence, told once, no file changed; and it is told from one that is unfit."""

import json
import os
import shutil
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, MambaConfig

from pytest_quantcheck.models.loading import load
from pytest_quantcheck.models.source import Source

QUICK = ("--quantcheck-only", "--quantcheck-samples=12", "--quantcheck-layers=2", "--quantcheck-attribution=off")
REPORTS = ("--quantcheck-report=out", "--junitxml=junit.xml")
ONE = "quantcheck::test_kl_divergence"
N = 9  # metrics of default@2 without attributions
DAMAGED = ("model.safetensors is damaged: ", "Check that the files are complete and belong together.")

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def _int8(tmp_path_factory):
    place = tmp_path_factory.mktemp("made") / "small"
    with load(Source("builtin"), "int8") as loaded:
        loaded.model.save_pretrained(place)
        loaded.tokenizer.save_pretrained(place)
    return place


@pytest.fixture
def small(_int8, tmp_path):
    """A copy of the built-in model as int8, to be damaged."""
    return Path(shutil.copytree(_int8, tmp_path / "small"))


@pytest.fixture
def broken(gate, tmp_path):
    """Runs one packaged test that must end in an error, and sees to it that no file changes; gives its sentence."""

    def run(*, model="builtin", candidate=None):
        before = content(tmp_path)
        option = f"--quantcheck-candidate={candidate}" if candidate else "--quantcheck-bits=8"
        found = gate(f"--quantcheck-model={model}", option, *QUICK, ONE)
        assert found.status == pytest.ExitCode.TESTS_FAILED
        assert "1 error in" in found.lines[-1]
        assert "Traceback" not in found.text
        assert "INTERNALERROR" not in found.text
        assert not any(line.startswith(("E  ", "> ")) for line in found.lines)
        assert content(tmp_path) == before
        start = next(i for i, line in enumerate(found.lines) if f" {ONE}[" in line)
        return found.lines[start + 1]

    return run


def content(place):
    """Every file's bytes."""
    return {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}


def cut(name, by):
    """Take away a file's end, as an interrupted upload does."""
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-by])


def empty(folder):
    """Leave the folder alone."""
    shutil.rmtree(folder)
    folder.mkdir()


def pickle(folder):
    """Put weights there that can run any code, and no others."""
    (folder / "model.safetensors").unlink()
    torch.save({"lm_head.weight": torch.zeros(2, 2)}, folder / "pytorch_model.bin")


def bring_code(folder):
    """Let the configuration name code of its own."""
    config = folder / "config.json"
    own = '"auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}, "model_type": "own-type",'
    config.write_text(config.read_text().replace('"model_type": "llama",', own))
    (folder / "own.py").write_text("raise SystemExit('the code ran')")


CANDIDATES = {
    "truncated": (cut("model.safetensors", 1000), DAMAGED),
    "no JSON": (cut("config.json", 100), ("config.json is damaged: expected a JSON object",)),
    "empty": (empty, ("small: expected a checkpoint, found no config.json",)),
    "pickled": (
        pickle,
        ("If its weights are pickled (pytorch_model.bin) and you trust them: --quantcheck-allow-pickle.",),
    ),
    "own code": (bring_code, ("allow it with --quantcheck-trust-remote-code if you trust it",)),
}


@pytest.mark.parametrize(("damage", "said"), CANDIDATES.values(), ids=CANDIDATES)
def test_candidate(broken, small, damage, said):
    """A damaged checkpoint, and what is not read unless that is allowed by name."""
    damage(small)
    sentence = broken(candidate=small)
    assert str(small) in sentence
    assert all(part in sentence for part in said)


def test_file_that_is_no_gguf(broken, tmp_path):
    """Its name says so, and its first bytes do not."""
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUX" + bytes(100))
    assert str(path) in broken(candidate=path)


def test_model_without_known_neurons(broken, checkpoint):
    """An architecture we do not know: its modules are named, and the option that points at the right ones."""
    config = MambaConfig(vocab_size=256, hidden_size=32, num_hidden_layers=3, state_size=4)
    (checkpoint / "model.safetensors").unlink()
    AutoModelForCausalLM.from_config(config).save_pretrained(checkpoint)
    said = broken(model=checkpoint)
    assert "MambaForCausalLM: no FFN was found" in said
    assert "--quantcheck-neurons=" in said
    assert "backbone.layers.0.mixer" in said


def test_weight_that_is_not_a_number(broken, checkpoint):
    """One NaN among the weights is found by what it does to the answers."""
    weights = load_file(checkpoint / "model.safetensors")
    weights["model.layers.3.mlp.down_proj.weight"][5, 7] = float("nan")
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    assert "NaN or infinite" in broken(model=checkpoint)


@pytest.mark.parametrize(("role", "name"), [("model", "nobody/none"), ("candidate", "nobody/none@v1")])
def test_model_on_no_hub(broken, role, name, monkeypatch):
    """An id that is not in the local cache, without a network: what was asked for, and what to check."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    said = broken(**{role: name})
    assert said.startswith("nobody/none cannot be fetched: ")
    assert said.endswith("Check the hub id and its revision, the network and HF_HUB_OFFLINE.")


@pytest.fixture
def refuse(refused):
    """Demands that a model, or a candidate, ends the run before anything is collected; gives the sentence."""

    def run(role, name):
        return refused(model=name) if role == "model" else refused(f"--quantcheck-candidate={name}")

    return run


@pytest.mark.parametrize("role", ["model", "candidate"])
def test_path_that_leads_nowhere(refuse, role):
    """A path is checked as a path: no library looks for it on a hub."""
    sentence = refuse(role, "./nowhere/model")
    assert sentence == "./nowhere/model: no such file or directory; check the path (a hub id is ORGANISATION/NAME)"


@pytest.mark.parametrize("role", ["model", "candidate"])
@pytest.mark.parametrize("name", ["loop.gguf", "pipe.gguf", "zero.gguf", "./loop", "./pipe", "./zero", "loop"])
def test_model_that_is_no_file(refuse, pytester, role, name):
    """A model is a directory or a regular file: a named pipe would wait, a device never end."""
    path = pytester.path / name
    if path.stem == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if path.stem == "zero" else path.name)
    assert ("Too many levels" if path.stem == "loop" else "expected a regular file, found a") in refuse(role, name)


@pytest.mark.parametrize("nested", [False, True])
def test_quantized_reference(refused, checkpoint, nested):
    """Refused from its configuration, at once and once; with `text_config` as multimodal models have it."""
    config = json.loads((checkpoint / "config.json").read_text())
    stated = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}
    (checkpoint / "config.json").write_text(json.dumps(config | ({"text_config": stated} if nested else stated)))
    sentence = refused(model=checkpoint)
    assert sentence.startswith(f"{checkpoint} is quantized already, and a reference is at full precision: name the")


# Broken, or unfit


UNQUANTIZED = "a candidate at full precision"
DAMAGE = {
    "truncated": lambda data: data[:-1000],
    "empty": lambda _data: b"",
    "no JSON in the header": lambda data: data[:8] + b"{" * 100 + data[108:],
}


@pytest.fixture
def run(gate, checkpoint, monkeypatch):
    """Runs a gate and gives all that it says; its model or its candidate may be a checkpoint that cannot be gated."""

    def run(*arguments, damage=None):
        monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
        options = ["--quantcheck-model=builtin"]
        if damage in DAMAGE:
            path = checkpoint / "model.safetensors"
            path.write_bytes(DAMAGE[damage](path.read_bytes()))
            options = [f"--quantcheck-model={checkpoint}"]
        elif damage:
            options += [f"--quantcheck-candidate={checkpoint}"]
        if damage != UNQUANTIZED:
            options += ["--quantcheck-bits=8"]
        found = gate(*options, *QUICK, *REPORTS, *arguments)
        return found, json.loads((found.directory / "out" / "report.json").read_text())

    return run


def count_junit(found):
    """Return the numbers of errors and of failures in the JUnit file."""
    (suite,) = ET.parse(found.directory / "junit.xml").getroot()
    return int(suite.get("errors")), int(suite.get("failures"))


@pytest.mark.parametrize(
    ("damage", "name", "said"),
    [*((damage, "int8", DAMAGED) for damage in DAMAGE), (UNQUANTIZED, "checkpoint", ("is not quantized",))],
)
def test_broken_candidate_is_an_error(run, damage, name, said):
    """JUnit has errors, report.json says broken, the first line could not be judged; the cause stands once."""
    found, report = run(damage=damage)
    assert found.status == pytest.ExitCode.TESTS_FAILED
    assert count_junit(found) == (N, 0)
    assert report["outcome"] == "broken"
    assert f"{name}: could not be judged ({N} tests without a verdict)" in found.lines
    assert f"{N} errors in" in found.lines[-1]
    assert len(report["causes"][name]) == N
    cause, section = report["causes"][name][0], found.lines[: found.lines.index(first(found, "= quantcheck:"))]
    assert section.count(cause) == 1
    assert all(part in cause for part in said)
    pointer = f"could not be judged: the same cause as quantcheck::test_confidence_drift[{name}-builtin], see above"
    assert section.count(pointer) == N - 1
    assert (found.directory / "out" / "report.html").read_text().count(f"Could not be judged: {name}")


def first(found, text):
    """Return the first line that has the text."""
    return next(line for line in found.lines if text in line)


def test_unfit_candidate_is_a_failure(run):
    """JUnit has failures, report.json says failed, the summary's first line not fit for release."""
    found, report = run("--quantcheck-fail=redundancy_change:0.0001")
    assert found.status == pytest.ExitCode.TESTS_FAILED
    assert count_junit(found) == (0, 1)
    assert report["outcome"] == "failed"
    assert first(found, "int8: not fit for release (1 failed")


def test_unfit_beside_broken_is_unfit(run):
    """A verdict against a candidate outweighs another candidate that could not be judged."""
    found, report = run("--quantcheck-fail=redundancy_change:0.0001", "--quantcheck-bits=8", damage=UNQUANTIZED)
    assert count_junit(found) == (N, 1)
    assert (report["outcome"], [*report["causes"]]) == ("failed", ["checkpoint"])


@pytest.mark.ci
def test_broken_reference_is_told_once_for_all_candidates(run):
    """The reference breaks every candidate by the same cause."""
    found, report = run("--quantcheck-bits=8,4", damage="empty")
    assert report["outcome"] == "broken"
    assert [*report["causes"]] == ["int8", "nf4"]
    assert sum(line.startswith("could not be judged: the same cause as") for line in found.lines) == 2 * N - 1


@pytest.mark.ci
def test_workers_tell_a_cause_once(run):
    """With xdist, too: the controller knows what it has shown."""
    found, report = run("-n", "2", damage=UNQUANTIZED)
    assert (report["outcome"], count_junit(found)) == ("broken", (N, 0))
    assert sum(line.startswith("could not be judged: the same cause as") for line in found.lines) == N - 1
    assert len(report["causes"]["checkpoint"]) == N


def test_first_error_stops_the_run(run):
    """-x stops at it."""
    found, report = run("-x", damage="truncated")
    assert "1 error in" in found.lines[-1]
    assert report["outcome"] == "broken"


def test_last_failed_runs_broken_tests_again(gate, checkpoint, pytester):
    """--lf knows tests that ended in an error."""
    (checkpoint / "model.safetensors").write_bytes(b"")
    options = (f"--quantcheck-candidate={checkpoint}", "--quantcheck-model=builtin", *QUICK, *REPORTS)
    pytester.makepyfile("def test_plain(): pass")
    gate(*options, "-k", "ace_drift or kl_divergence")
    assert "2 errors in" in gate(*options, "--lf").lines[-1]
