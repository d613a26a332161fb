"""Bad input ends pytest with exit status 4 and one sentence, before a model is loaded."""

import json

import pytest
import torch

GOOD = "prompt,gold\n" + "".join(f"is {number} a number,True\n" for number in range(12))

OPTIONS = {
    "bits-unknown": ("--quantcheck-bits=int7", "expected one of bf16, fp16, fp32, int8, nf4, fp4"),
    "bits-twice": ("--quantcheck-bits=8,int8", "names int8 twice"),
    "dtype": ("--quantcheck-dtype=fp64", "expected one of auto, bf16, fp16, fp32"),
    "readout": ("--quantcheck-readout=words", "expected one of token, choices, substring"),
    "attribution": ("--quantcheck-attribution=none", "expected adaptive, paper, off"),
    "samples": ("--quantcheck-samples=9", "whole number of at least 10"),
    "batch-size": ("--quantcheck-batch-size=0", "whole number of at least 1"),
    "layers": ("--quantcheck-layers=first", "expected paper, all or block numbers"),
    "layers-absent": ("--quantcheck-layers=0,99", "the model has layers 0 to 5, and 99 is none of them"),
    "device": ("--quantcheck-device=tpu", "expected auto, cpu, cuda or cuda:N"),
    "limit-nan": (
        "--quantcheck-fail=ace_drift:nan",
        "finite limit of at least 0 and at most 0.999 (it is never above 1) for ace_drift, got nan",
    ),
    "limit-infinite": (
        "--quantcheck-fail=ace_drift:inf",
        "finite limit of at least 0 and at most 0.999 (it is never above 1) for ace_drift, got inf",
    ),
    "limit-negative": (
        "--quantcheck-fail=ace_drift:-0.1",
        "limit of at least 0 and at most 0.999 (it is never above 1) for ace_drift, got -0.1",
    ),
    "limit-percent": ("--quantcheck-fail=flip_rate:5", "for flip_rate, got 5.0. Did you mean 0.05?"),
    "limit-percent-sign": ("--quantcheck-fail=flip_rate:5%", "a number after flip_rate:, got '5%'. Did you mean 0.05?"),
    "limit-too-loose": (
        "--quantcheck-fail=kl_divergence:100",
        "of at least 0 and at most 10 (a model that only guesses",
    ),
    "metric": ("--quantcheck-fail=ace_drfit:0.1", "Did you mean 'ace_drift'?"),
    "metric-unmeasured": ("--quantcheck-allow-unmeasured=ace", "), got 'ace'"),
    "calibrate-path": ("--quantcheck-calibrate=../mine", "expected NAME or NAME@VERSION"),
    "calibrate-rate": ("--quantcheck-calibrate-rate=1", "expected a rate above 0 and at most 0.5"),
    "profile": ("--quantcheck-profile=strict@1", "strict@1"),
    "profile-version": ("--quantcheck-profile=default@99", "default@99"),
    "prompts-hub": ("--quantcheck-prompts=hf:squad", "expected hf: and one of boolq"),
    "prompts-twice": ("--quantcheck-prompts=a.csv --quantcheck-prompts=sub/a.csv", "would both be called 'a'"),
    "template": ("--quantcheck-template={question}", "question"),
    "report": ("--quantcheck-report=a.csv", "expected a directory, got the file 'a.csv'"),
    "equal": ("--quantcheck-dtype=bf16 --quantcheck-bits=bf16", "equal to the reference"),
    "equal-as-stored": ("--quantcheck-bits=8,bf16", "names bf16, which is the precision of the reference"),
}

PROMPT_FILES = {
    "empty": (b"", "p.csv is empty"),
    "header-only": (b"prompt,gold\n", "p.csv has no rows"),
    "columns": (b"question,answer\na,b\n", "--quantcheck-columns=prompt=question,gold=answer"),
    "not-utf-8": (GOOD.encode() + b"caf\xe9,True\n", "p.csv is not UTF-8: byte"),
    "empty-prompt": (GOOD.encode() + b" ,True\n", "p.csv, row 13: the prompt is empty"),
    "empty-gold": (GOOD.encode() + b"is ice cold,\n", "p.csv, row 13: the gold is empty"),
    "too-few": (b"prompt,gold\n" + b"a,b\n" * 9, "p.csv: expected at least 10 prompts (ten calibration bins), got 9"),
}

PROFILE = """
schema = 1
name = "trial"
version = 1
description = "A profile with one mistake."
[decision]
confidence = 0.95
inconclusive = "fail"
[metrics.ace_drift]
max = 0.1
evidence = "none"
"""


@pytest.fixture(autouse=True)
def _files(pytester):
    pytester.path.joinpath("a.csv").write_text(GOOD)
    pytester.mkdir("sub").joinpath("a.csv").write_text(GOOD)


@pytest.mark.parametrize(("options", "said"), OPTIONS.values(), ids=OPTIONS)
def test_option(refused, options, said):
    """A value that cannot be used is named, with what was expected."""
    assert said in refused(*options.split(" "))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_device_that_is_not_there(refused):
    """It is refused as a wrong value is, not test by test."""
    assert "sees no CUDA device here" in refused("--quantcheck-device=cuda")


@pytest.mark.parametrize(("content", "said"), PROMPT_FILES.values(), ids=PROMPT_FILES)
def test_prompt_file(refused, pytester, content, said):
    """A prompt file that is not as it must be is named, with the row where there is one."""
    pytester.path.joinpath("p.csv").write_bytes(content)
    assert said in refused("--quantcheck-prompts=p.csv")


def test_missing_prompt_file(refused):
    """A prompt file that does not exist."""
    assert "cannot read prompts from nowhere.csv: No such file" in refused("--quantcheck-prompts=nowhere.csv")


@pytest.mark.parametrize("option", ["prompts", "report", "candidate", "profile"])
def test_name_that_is_not_utf_8(refused, option):
    """Bytes that are no text, as in the name of a file from an old archive: node ids and reports are text."""
    sentence = refused(f"--quantcheck-{option}=fr\udce4gen.csv")
    said = r"expected text, got 'fr\udce4gen.csv', which is not UTF-8; rename the file or directory"
    assert sentence == f"--quantcheck-{option}: {said}"


@pytest.mark.parametrize(
    ("old", "new"),
    [("max = 0.1", "max = nan"), ("max = 0.1", "max = -1"), ("ace_drift", "ace"), ("evidence", "reason")],
    ids=["nan", "negative", "unknown-metric", "unknown-key"],
)
def test_profile_file(refused, pytester, old, new):
    """A profile with a mistake is named, with the place in the file."""
    pytester.path.joinpath("trial.toml").write_text(PROFILE.replace(old, new))
    sentence = refused("--quantcheck-profile=trial.toml")
    assert "trial.toml" in sentence
    assert "metrics" in sentence


def test_model_path_that_leads_nowhere(refused):
    """A path is checked as a path: no library looks for it on a hub."""
    sentence = refused(model="./nowhere/model")
    assert sentence == "./nowhere/model: no such file or directory; check the path (a hub id is ORGANISATION/NAME)"


@pytest.mark.parametrize("nested", [False, True])
def test_quantized_reference(refused, checkpoint, nested):
    """Refused from its configuration, at once and once; with `text_config` as multimodal models have it."""
    config = json.loads((checkpoint / "config.json").read_text())
    stated = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}
    (checkpoint / "config.json").write_text(json.dumps(config | ({"text_config": stated} if nested else stated)))
    sentence = refused(model=checkpoint)
    assert sentence.startswith(f"{checkpoint} is quantized already, and a reference is at full precision: name the")


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_candidate_equal_to_a_local_checkpoint(refused, checkpoint, key):
    """The float format that config.json declares, in the word of either age, may not be a candidate."""
    config = json.loads((checkpoint / "config.json").read_text())
    del config["dtype"]
    (checkpoint / "config.json").write_text(json.dumps(config | {key: "float16"}))
    assert "names fp16, which is the precision of the reference" in refused("--quantcheck-bits=fp16", model=checkpoint)


def test_another_precision_of_the_same_checkpoint_is_a_candidate(gate):
    """bf16 weights, read as fp32, can be the reference of bf16."""
    quick = ("--quantcheck-model=builtin", "--quantcheck-only", "--collect-only", "-q")
    assert gate(*quick, "--quantcheck-dtype=fp32", "--quantcheck-bits=bf16").status == 0


@pytest.mark.parametrize("option", ["--quantcheck-controls", "--quantcheck-only", "--quantcheck-dry-run"])
def test_option_that_needs_a_model(gate, option):
    """Without --quantcheck-model there is nothing to collect or to check."""
    found = gate(option)
    assert found.status == pytest.ExitCode.USAGE_ERROR
    assert found.lines[0] == f"ERROR: {option} needs a model: add --quantcheck-model=MODEL"
