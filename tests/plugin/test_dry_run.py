"""A dry run finds what a run would stumble over, and says what it did not look at; no weight is read."""

import importlib
import json
import os
import re
import shutil
import time
from hashlib import sha256

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from pytest_quantcheck.models import builtin

for _module in (
    "models.file_checks",
    "run.dry_run",
    "run.trial",
):  # pytester forgets what is first imported within a run
    importlib.import_module(f"pytest_quantcheck.{_module}")

NEVER = (
    "not checked: whether the weights load and fit into memory, and how long the run takes (--quantcheck-trial shows "
    "both)"
)


@pytest.fixture(scope="session")
def _int8(tmp_path_factory):
    folder = tmp_path_factory.mktemp("released") / "model-int8"
    config = BitsAndBytesConfig(load_in_8bit=True)
    model = AutoModelForCausalLM.from_pretrained(builtin.DIRECTORY, quantization_config=config)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(builtin.DIRECTORY / name, folder)
    return folder


@pytest.fixture
def candidate(_int8, tmp_path):
    """A released checkpoint, to be damaged."""
    return shutil.copytree(_int8, tmp_path / "candidate")


@pytest.fixture
def dry(gate):
    """Makes a dry run; gives exit status, the problems it lists, and the run."""

    def run(*arguments, model="builtin"):
        found = gate(f"--quantcheck-model={model}", "--quantcheck-only", "--quantcheck-dry-run", *arguments)
        assert "Traceback" not in found.text
        assert "INTERNALERROR" not in found.text
        problems = [line.removeprefix("problem: ") for line in found.lines if line.startswith("problem: ")]
        assert found.status == (4 if problems else 0), found.text
        return problems, found

    return run


def cut(path):
    """Take the end of a file away, as an interrupted download does."""
    path.write_bytes(path.read_bytes()[:-1000])


def change_config(folder, **changes):
    """Change a checkpoint's configuration; None takes a field away."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


def write_sums(folder, digest):
    """Write the sums of the configuration alone."""
    (folder / "SHA256SUMS").write_text(f"{digest}  config.json\n")


def shard(folder, *, leave=()):
    """Write the weights as 30 files with an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = {name: f"model-{number % 30 + 1:05}-of-00030.safetensors" for number, name in enumerate(sorted(tensors))}
    for file in set(names.values()):
        held = {name: tensors[name] for name, where in names.items() if where == file and name not in leave}
        save_file(held, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return names


CANDIDATES = {
    "no-config": (lambda f: (f / "config.json").unlink(), "found no config.json"),
    "bad-config": (lambda f: (f / "config.json").write_text("{"), "config.json is damaged: expected a JSON object"),
    "no-tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "cannot be loaded as released"),
    "bad-tokenizer": (lambda f: (f / "tokenizer.json").write_text("{}"), "cannot be loaded as released"),
    "no-weights": (lambda f: (f / "model.safetensors").unlink(), "expected weights in model.safetensors"),
    "truncated": (lambda f: cut(f / "model.safetensors"), "model.safetensors is damaged"),
    "empty-weights": (lambda f: (f / "model.safetensors").write_bytes(b""), "model.safetensors is damaged"),
    "sums": (lambda f: write_sums(f, "0" * 64), "config.json is not the file that SHA256SUMS beside it names"),
    "no-sums": (lambda f: (f / "SHA256SUMS").touch(), "names no file"),
    "plain": (lambda f: change_config(f, quantization_config=None), "is not quantized"),
    "method": (
        lambda f: change_config(f, quantization_config={"quant_method": "foo", "load_in_8bit": True}),
        "got 'foo'",
    ),
    "package": (
        lambda f: change_config(f, quantization_config={"quant_method": "gptq", "bits": 4}),
        "which needs gptqmodel and optimum",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("damage", "said"), CANDIDATES.values(), ids=CANDIDATES)
def test_candidate_that_cannot_be_gated(dry, candidate, damage, said):
    """One line, exit status 4."""
    damage(candidate)
    problems, found = dry(f"--quantcheck-candidate={candidate}")
    assert len(problems) == 1, problems
    assert said in problems[0]
    assert "ERROR: the run would not succeed: 1 problem, listed above; correct it and try again" in found.lines


REFERENCES = {
    "no-config": (lambda f: (f / "config.json").unlink(), "found no config.json"),
    "type": (lambda f: change_config(f, model_type="magic"), "cannot be loaded at reference"),
    "no-tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "cannot be loaded at reference"),
    "truncated": (lambda f: cut(f / "model.safetensors"), "model.safetensors is damaged"),
    "sums": (lambda f: write_sums(f, "0" * 64), "config.json is not the file"),
    "no-index": (
        lambda f: (shard(f), (f / "model.safetensors.index.json").write_text("{}")),
        "expected a weight_map",
    ),
    "no-shard": (
        lambda f: (shard(f), (f / "model-00007-of-00030.safetensors").unlink()),
        "model-00007-of-00030.safetensors cannot be read: No such file or directory",
    ),
    "cut-shard": (
        lambda f: (shard(f), cut(f / "model-00030-of-00030.safetensors")),
        "model-00030-of-00030.safetensors is damaged",
    ),
    "tensor": (
        lambda f: shard(f, leave=["model.norm.weight"]),
        "lacks model.norm.weight, which model.safetensors.index.json says is in it",
    ),
}


@pytest.mark.parametrize(("damage", "said"), REFERENCES.values(), ids=REFERENCES)
def test_reference_that_cannot_be_measured(dry, checkpoint, damage, said):
    """The same of the reference."""
    damage(checkpoint)
    problems, _ = dry(model=checkpoint)
    assert len(problems) == 1, problems
    assert said in problems[0]


def test_index_that_leads_elsewhere(dry, checkpoint):
    """Weights outside the directory would be in no hash."""
    shard(checkpoint)
    index = checkpoint / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("model-00001", "../model-00001"))
    (problem,), _ = dry(model=checkpoint)
    assert "expected the name of a file beside it, got '../model-00001-of-00030.safetensors'" in problem


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "SHA256SUMS"])
def test_pipe(dry, checkpoint, candidate, name):
    """Nothing waits for a pipe."""
    for folder in (checkpoint, candidate):
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)
    problems, _ = dry(f"--quantcheck-candidate={candidate}", model=checkpoint)
    assert any(str(checkpoint) in problem for problem in problems)
    assert any(str(candidate) in problem for problem in problems)


def test_everything_at_once(dry, checkpoint, candidate, tmp_path):
    """Each problem of each model, and each once."""
    cut(checkpoint / "model.safetensors")
    (candidate / "tokenizer.json").unlink()
    (candidate / "SHA256SUMS").touch()
    (tmp_path / "empty").mkdir()
    candidates = (f"--quantcheck-candidate={candidate}", f"--quantcheck-candidate={tmp_path / 'empty'}")
    problems, found = dry(*candidates, model=checkpoint)
    assert len(problems) == len(set(problems)) == 4
    assert problems[-1] == f"{tmp_path / 'empty'}: expected a checkpoint, found no config.json; check the path"
    assert any(line.startswith("ERROR: the run would not succeed") for line in found.lines)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_device_that_is_not_there(dry):
    """Also with the built-in model, of which nothing else is checked."""
    (problem,), _ = dry("--quantcheck-device=cuda")
    assert "sees no CUDA device here" in problem


def test_whole_models_pass(dry, checkpoint, candidate):
    """What was checked is said, and what was not."""
    (candidate / "SHA256SUMS").write_text(
        "".join(f"{sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in candidate.iterdir())
    )
    problems, found = dry(f"--quantcheck-candidate={candidate}", model=checkpoint)
    assert problems == []
    plain = "precision, configuration, tokenizer, headers of the weights, configuration against the weights"
    assert f"checked: {plain} of {checkpoint}" in found.lines
    assert (
        "checked: checksums, format, configuration, tokenizer, headers of the weights, configuration against the "
        f"weights, parts of quantized weights of {candidate}"
    ) in found.lines
    assert f"checked: configuration of {candidate} against the reference's" in found.lines
    assert NEVER in found.lines


def test_candidate_that_is_served_otherwise_is_a_problem(dry, candidate):
    """Unless it is meant."""
    change_config(candidate, eos_token_id=7)
    problems, _ = dry(f"--quantcheck-candidate={candidate}")
    (problem,) = problems
    assert problem == (
        f"{candidate} would not be served as the reference is: config.eos_token_id is 7, the reference's 1. Release it "
        "with the reference's files, or say that it is meant: --quantcheck-allow-difference=config.eos_token_id"
    )
    meant = "--quantcheck-allow-difference=config.eos_token_id"
    assert dry(f"--quantcheck-candidate={candidate}", meant)[0] == []


@pytest.mark.parametrize("eos", ["x", [[1], 2], {"1": 2}, [None, 1]])
def test_end_of_an_answer_that_is_no_token(dry, candidate, eos):
    """It is shown beside the reference's, whatever it is."""
    path = candidate / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": eos}))
    problems, _ = dry(f"--quantcheck-candidate={candidate}")
    assert len(problems) == 1
    assert re.search("generation_config.eos_token_id(.1)? is .*, the reference's", problems[0])


def test_candidate_beside_a_reference_that_cannot_be_read(dry, candidate, checkpoint):
    """It is said that the two were not compared."""
    change_config(checkpoint, model_type=None)
    problems, found = dry(f"--quantcheck-candidate={candidate}", model=checkpoint)
    assert len(problems) == 1
    assert f"{NEVER}; whether {candidate} is served as the reference is" in found.lines


def test_thirty_shards_cost_seconds(dry, checkpoint, candidate):
    """Only their headers are read."""
    shard(checkpoint)
    before = time.monotonic()
    assert dry(f"--quantcheck-candidate={candidate}", model=checkpoint)[0] == []
    assert time.monotonic() - before < 20  # a second here


def test_large_files_are_not_hashed(dry, checkpoint, monkeypatch):
    """What would take minutes is named as not checked; the rest is verified."""
    monkeypatch.setattr("pytest_quantcheck.run.dry_run._MOST_BYTES", 100_000)
    files = [path for path in checkpoint.iterdir() if path.name in {"config.json", "model.safetensors"}]
    (checkpoint / "SHA256SUMS").write_text(
        "".join(f"{sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)
    )
    problems, found = dry(model=checkpoint)
    assert problems == []
    assert f"{NEVER}; the sha256 of model.safetensors of {checkpoint}, which takes long" in found.lines


def test_pickled_weights_are_not_called_checked(dry, checkpoint):
    """Their content is known only when they are loaded."""
    (checkpoint / "model.safetensors").unlink()
    torch.save({}, checkpoint / "pytorch_model.bin")
    problems, found = dry("--quantcheck-allow-pickle", model=checkpoint)
    assert problems == []
    assert f"checked: precision, configuration, tokenizer of {checkpoint}" in found.lines
    assert f"{NEVER}; the pickled weights of {checkpoint}" in found.lines


SMALL = ("--quantcheck-trial", "--quantcheck-attribution=off", "--quantcheck-layers=2", "--quantcheck-bits=8")


def test_trial_says_how_long_each_model_takes(dry, pytester):
    """Each is loaded, measured and compared, so that nothing stays unchecked; no test is run, nothing is written."""
    problems, found = dry(*SMALL, "--quantcheck-samples=20", "--quantcheck-report=out")
    assert problems == []
    (line,) = (line for line in found.lines if line.startswith("the run would take about "))
    assert re.fullmatch(r".* on this machine, one model after another: reference .+ (s|min), int8 .+ (s|min)", line)
    assert not any(line.startswith("not checked: ") for line in found.lines)
    assert "passed" not in found.text
    assert not (pytester.path / "out").exists()


def test_candidate_of_another_model_is_a_problem(dry, candidate):
    """Words in each other's place show without weights, so no trial is made."""
    tokenizer = json.loads((candidate / "tokenizer.json").read_text())
    first, second, *_ = tokenizer["model"]["vocab"]
    names = {first: second, second: first}
    tokenizer["model"]["vocab"] = {names.get(name, name): n for name, n in tokenizer["model"]["vocab"].items()}
    (candidate / "tokenizer.json").write_text(json.dumps(tokenizer))
    problems, found = dry(*SMALL, "--quantcheck-samples=20", f"--quantcheck-candidate={candidate}")
    assert len(problems) == 1
    assert not any(line.startswith("the run would take") for line in found.lines)
    assert re.search("is not the reference quantized: .*tokenizer.vocabulary is ", problems[0])


@pytest.mark.parametrize("offline", [True, False])
def test_hub_id(dry, offline, tmp_path, monkeypatch):
    """Where nothing may be fetched it must be there already; elsewhere it is named as not checked, and not fetched."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    problems, found = dry("--quantcheck-candidate=nobody/no-such-model")
    if offline:
        assert len(problems) == 1
        assert problems[0].startswith("nobody/no-such-model cannot be fetched: ")
    else:
        assert problems == []
        assert f"{NEVER}; the files of nobody/no-such-model, which a run fetches from the hub" in found.lines


def test_cached_hub_id_is_checked(dry, candidate, tmp_path, monkeypatch):
    """What was fetched before is checked where nothing can be fetched."""
    snapshot = tmp_path / "hub" / "models--example--small" / "snapshots" / ("a" * 40)
    shutil.copytree(candidate, snapshot)
    (tmp_path / "hub" / "models--example--small" / "refs").mkdir()
    (tmp_path / "hub" / "models--example--small" / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert dry("--quantcheck-candidate=example/small")[0] == []
    cut(snapshot / "model.safetensors")
    (problem,), _ = dry("--quantcheck-candidate=example/small")
    assert "model.safetensors is damaged" in problem


def test_gguf_header(dry, tmp_path):
    """As the reference and as a candidate."""
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF" + bytes(40))
    assert len(dry(f"--quantcheck-candidate={path}")[0]) == 1
    assert len(dry(model=path)[0]) == 1


def test_baseline_stands_for_the_reference(dry, candidate, gate):
    """Its model need not be here."""
    quick = ("--quantcheck-samples=12", "--quantcheck-attribution=off", "--quantcheck-layers=2")
    made = gate(
        "--quantcheck-model=builtin",
        "--quantcheck-bits=8",
        *quick,
        "--quantcheck-baseline=b",
        "--quantcheck-update-baseline",
        "quantcheck::test_kl_divergence",
    )
    assert made.status in {0, 1}
    found = gate(
        "--quantcheck-only",
        "--quantcheck-dry-run",
        f"--quantcheck-candidate={candidate}",
        *quick,
        "--quantcheck-baseline=b",
    )
    assert found.status == 0, found.text
