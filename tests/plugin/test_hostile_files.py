"""Files that could be endless, or made to take the parser's stack: one sentence, at once, exit status 4."""

import os
import time

import pytest

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
LINK = "cannot read loop{}: Too many levels of symbolic links"

FILES = {
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
    "loop.toml": LINK.format(".toml"),
    "loop.jsonl": LINK.format(".jsonl"),
    "pipe.toml": "cannot read pipe.toml: expected a regular file, found a named pipe",
    "pipe.jsonl": "cannot read prompts from pipe.jsonl: expected a regular file, found a named pipe",
    "zero.toml": "cannot read zero.toml: expected a regular file, found a device",
    "zero.jsonl": "cannot read prompts from zero.jsonl: expected a regular file, found a device",
    "kernel.jsonl": "kernel.jsonl is empty",
    "kernel.toml": "kernel.toml: top level: Object missing required field `schema`",
}


@pytest.fixture
def read(refused, pytester):
    """Names a profile or a prompt file, and demands a refusal within a second; gives the sentence."""

    def name(file):
        started = time.perf_counter()
        sentence = refused(f"--quantcheck-{'profile' if file.endswith('.toml') else 'prompts'}={file}")
        assert time.perf_counter() - started < 10  # a second on a machine with nothing else to do
        assert len(sentence) < 500
        return sentence

    return name


@pytest.mark.parametrize("name", FILES)
def test_content_that_a_parser_does_not_survive(read, pytester, name):
    """Nesting, dots, digits and sizes beyond all use; NUL characters and repeated keys."""
    content, said = FILES[name]
    pytester.path.joinpath(name).write_text(content)
    assert said in read(name)


@pytest.mark.parametrize("name", SPECIAL)
def test_what_is_no_regular_file(read, special, name):
    """It is not opened: a named pipe would wait, a device never end."""
    assert SPECIAL[name].removeprefix("cannot read ") in read(name)


@pytest.fixture
def special(pytester):
    """Makes a link to itself, a named pipe, and links to an endless device and to a file that may block."""
    for suffix in (".toml", ".jsonl", ".gguf", ""):
        (pytester.path / f"loop{suffix}").symlink_to(f"loop{suffix}")
        (pytester.path / f"zero{suffix}").symlink_to("/dev/zero")
        (pytester.path / f"kernel{suffix}").symlink_to("/proc/self/status")
        os.mkfifo(pytester.path / f"pipe{suffix}")


@pytest.mark.parametrize("option", ["model", "candidate"])
@pytest.mark.parametrize("name", ["loop.gguf", "pipe.gguf", "zero.gguf", "./loop", "./pipe", "./zero", "loop"])
def test_model_that_is_no_file(refused, special, option, name):
    """A model is a directory or a regular file."""
    said = "Too many levels" if "loop" in name else "expected a regular file, found a"
    assert said in (refused(model=name) if option == "model" else refused(f"--quantcheck-candidate={name}"))


NAMES = {
    "control": ("a\x1b[31m.jsonl", "expected a name without control characters, got 'a\\x1b[31m.jsonl'; rename"),
    "line": ("a\nb.jsonl", "expected a name without control characters, got 'a\\nb.jsonl'; rename"),
    "separator": ("a\u2028b.jsonl", "expected a name without control characters, got 'a\\u2028b.jsonl'; rename"),
    "long": ("a" * 300, "expected at most 255 bytes between slashes, got 'aaaa"),
    "longer": ("a/" * 3000, "expected at most 255 bytes between slashes and 4,095 in all, got 'a/a/"),
    "nobody": ("~nobody-of-that-name/a.jsonl", "expected a path, got '~nobody-of-that-name/a.jsonl': Could not"),
}


@pytest.mark.parametrize("option", ["prompts", "profile", "candidate", "report", "baseline", "cache"])
@pytest.mark.parametrize(("name", "said"), NAMES.values(), ids=NAMES)
def test_name_that_no_node_id_can_hold(refused, option, name, said):
    """Control characters would move a terminal's cursor or break a line in two; the others are no path at all."""
    said = said if "bytes" not in said else "expected at most 255 bytes between slashes and 4,095 in all, got 'a"
    assert f"--quantcheck-{option}: {said}" in refused(f"--quantcheck-{option}={name}")
