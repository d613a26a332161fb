"""Bad options, prompt files and profiles: exit status 4 and one sentence, before a model is loaded.

Here is what pytest shows. What each option and each file may hold is tested without it: tests/options, tests/prompts,
tests/profiles.
"""

import json
import os
import time

import pytest
import torch

ROWS = "".join(f'{{"prompt": "is {number} even", "gold": "True"}}\n' for number in range(12))
PROFILE = """
schema = 1
name = "trial"
version = 1
description = "A profile."
[decision]
confidence = 0.95
inconclusive = "fail"
[metrics.ace_drift]
max = 0.1
evidence = "none"
"""

OPTIONS = {
    "bits": ("--quantcheck-bits=int7", "expected one of bf16, fp16, fp32, int8, nf4, fp4"),
    "layers-absent": ("--quantcheck-layers=0,99", "the model has layers 0 to 5, and 99 is none of them"),
    "profile": ("--quantcheck-profile=strict@1", "strict@1"),
    "profile-version": ("--quantcheck-profile=default@99", "default@99"),
    "prompts-hub": ("--quantcheck-prompts=hf:squad", "expected hf: and one of boolq"),
    "prompts-twice": ("--quantcheck-prompts=a.jsonl --quantcheck-prompts=sub/a.jsonl", "would both be called 'a'"),
    "template": ("--quantcheck-template={question}", "question"),
    "equal-as-stored": ("--quantcheck-bits=8,bf16", "names bf16, which is the precision of the reference"),
}


@pytest.mark.parametrize(("options", "said"), OPTIONS.values(), ids=OPTIONS)
def test_option(refused, pytester, options, said):
    """A value that cannot be used is named, with what was expected."""
    pytester.mkdir("sub").joinpath("a.jsonl").write_text(ROWS)
    pytester.path.joinpath("a.jsonl").write_text(ROWS)
    assert said in refused(*options.split(" "))


UNREADABLE = {
    "too long": (
        [*(f"is {n} even" for n in range(12)), "the dog " * 80],
        "token",
        "row 13 has 161 tokens, and the mod",
    ),
    "the same tokens": ([f"is {word} even" for word in "ABCDEFGHIJKL"], "token", "got 12 that are 1 distinct input"),
    "one choice": ([f"is {n} even" for n in range(12)], "choices", "has 'True' alone, which every model would give"),
}


@pytest.mark.parametrize(
    ("what", "how"),
    [
        *((what, how) for what in UNREADABLE for how in ((), ("--quantcheck-dry-run",))),
        pytest.param("too long", ("-n", "1"), marks=pytest.mark.ci),
    ],
)
def test_prompts_that_the_model_cannot_read(gate, pytester, what, how):
    """The tokenizer and the configuration show it; no weight is read, and a dry run says the same."""
    prompts, readout, said = UNREADABLE[what]
    lines = (json.dumps({"prompt": prompt, "gold": "True"}) for prompt in prompts)
    pytester.path.joinpath("odd.jsonl").write_text("\n".join(lines))
    options = ("--quantcheck-prompts=odd.jsonl", f"--quantcheck-readout={readout}")
    found = gate("--quantcheck-model=builtin", "--quantcheck-only", *options, *how)
    assert found.status == pytest.ExitCode.USAGE_ERROR
    (sentence,) = (line for line in found.lines if said in line)
    assert sentence.startswith("problem: " if "--quantcheck-dry-run" in how else "ERROR: ")
    assert "no tests ran" in found.text
    assert "Traceback" not in found.text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_device_that_is_not_there(refused):
    """It is refused as a wrong value is, not test by test."""
    assert "sees no CUDA device here" in refused("--quantcheck-device=cuda")


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


def test_option_that_needs_a_model(gate):
    """Without --quantcheck-model there is nothing to collect or to check."""
    found = gate("--quantcheck-controls")
    assert found.status == pytest.ExitCode.USAGE_ERROR
    assert found.lines[0] == "ERROR: --quantcheck-controls needs a model: add --quantcheck-model=MODEL"


NAMES = {
    "control": ("a\x1b[31m.jsonl", "expected a name without control characters, got 'a\\x1b[31m.jsonl'; rename"),
    "line": ("a\nb.jsonl", "expected a name without control characters, got 'a\\nb.jsonl'; rename"),
    "separator": ("a\u2028b.jsonl", "expected a name without control characters, got 'a\\u2028b.jsonl'; rename"),
    "long": ("a" * 300, "expected at most 255 bytes between slashes and 4,095 in all, got 'aaaa"),
    "longer": ("a/" * 3000, "expected at most 255 bytes between slashes and 4,095 in all, got 'a/a/"),
    "nobody": ("~nobody-of-that-name/a.jsonl", "expected a path, got '~nobody-of-that-name/a.jsonl': Could not"),
    "not-utf-8": (
        "fr\udce4gen.csv",
        r"expected text, got 'fr\udce4gen.csv', which is not UTF-8; rename the file or directory",
    ),
}


@pytest.mark.parametrize("option", ["prompts", "profile", "candidate", "report", "baseline", "cache"])
@pytest.mark.parametrize(("name", "said"), NAMES.values(), ids=NAMES)
def test_name_that_no_node_id_can_hold(refused, option, name, said):
    """Control characters would move a terminal's cursor or break a line in two; the others are no path, or no text."""
    assert refused(f"--quantcheck-{option}={name}").startswith(f"--quantcheck-{option}: {said}")


FILES = {
    "columns.csv": ("question,answer\na,b\n", "columns.csv: expected the columns prompt and gold, missing"),
    "metric.toml": (PROFILE.replace("ace_drift", "ace"), "metric.toml: metrics.ace: expected a metric (ace_drift, "),
    "nested.toml": ("x = " + "[" * 100_000, "expected at most 20 brackets inside one another, got more"),
    "nested-tables.toml": ("x = " + "{a = " * 100_000, "expected at most 20 brackets inside one another, got more"),
    "dots.toml": (".".join(["a"] * 60_000) + " = 1", "expected keys of at most 20 dots, got more"),
    "quoted-dots.toml": ("[" + ".".join(["'a'", '"b"'] * 30_000) + "]", "expected keys of at most 20 dots, got more"),
    "hidden-dots.toml": (
        'x = {y = """a"""", ' + "a." * 60_000 + "b = 1}",
        "expected keys of at most 20 dots, got more",
    ),
    "quotes.toml": ('x = """' + '\\"""' * 150_000 + "\\", "is not TOML"),
    "large.toml": (PROFILE + "#" * 2_000_000, "expected at most 1 MB, found 1.9 MB"),
    "digits.toml": (
        PROFILE.replace("version = 1", "version = " + "9" * 5000),
        "is not TOML: expected numbers of at most 4,300 digits",
    ),
    "overrides.toml": (
        PROFILE + '[[metrics.ace_drift.override]]\nmodel = "a"\nmax = 0\nevidence = "x"\n' * 2000,
        "metrics.ace_drift.override: expected at most 300, got 2,000",
    ),
    "deep.jsonl": (ROWS + '{"prompt": "a", "gold": "b", "x": ' + "[" * 100_000, "line 13: malformed JSON"),
    "twice.jsonl": (
        ROWS + '{"prompt": "a", "gold": "True", "gold": "False"}',
        "twice.jsonl, line 13: malformed JSON: found the key 'gold' twice",
    ),
    "nul.jsonl": (ROWS + '{"prompt": "a\\u0000b", "gold": "True"}', "row 13: a NUL character in 'prompt'"),
    "nul.csv": ("prompt,gold,more\n" + "a,b,c\0\n" * 12, "row 1: a NUL character in 'more'"),
}
SPECIAL = {
    "loop.toml": "loop.toml: Too many levels of symbolic links",
    "loop.jsonl": "loop.jsonl: Too many levels of symbolic links",
    "pipe.toml": "cannot read pipe.toml: expected a regular file, found a named pipe",
    "pipe.jsonl": "cannot read prompts from pipe.jsonl: expected a regular file, found a named pipe",
    "zero.toml": "cannot read zero.toml: expected a regular file, found a device",
    "zero.jsonl": "cannot read prompts from zero.jsonl: expected a regular file, found a device",
    "kernel.jsonl": "kernel.jsonl is empty",
    "kernel.toml": "kernel.toml: top level: Object missing required field `schema`",
    "nowhere.jsonl": "cannot read prompts from nowhere.jsonl: No such file",
}


@pytest.fixture
def read(refused):
    """Names a profile or a prompt file, and demands a refusal within a second; gives the sentence."""

    def name(file):
        started = time.perf_counter()
        sentence = refused(f"--quantcheck-{'profile' if file.endswith('.toml') else 'prompts'}={file}")
        assert time.perf_counter() - started < 10  # a second on a machine with nothing else to do
        assert len(sentence) < 500
        return sentence

    return name


@pytest.mark.parametrize("name", FILES)
def test_content(read, pytester, name):
    """A mistake is named with its place; so are nesting, dots, digits and sizes that no parser survives."""
    content, said = FILES[name]
    pytester.path.joinpath(name).write_text(content)
    assert said in read(name)


@pytest.mark.parametrize("name", SPECIAL)
def test_what_is_no_regular_file(read, pytester, name):
    """It is not opened: a named pipe would wait, a device never end."""
    path = pytester.path / name
    if path.stem == "pipe":
        os.mkfifo(path)
    elif path.stem != "nowhere":
        path.symlink_to({"loop": name, "zero": "/dev/zero", "kernel": "/proc/self/status"}[path.stem])
    assert SPECIAL[name] in read(name)
