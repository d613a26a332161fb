"""What README and the pages in docs say can be typed, can be typed, and gives what they show."""

import csv
import importlib
import json
import pkgutil
import shutil

import pytest

import pytest_quantcheck
from pytest_quantcheck.commands import main
from pytest_quantcheck.models.builtin import DIRECTORY
from pytest_quantcheck.models.loading import load
from pytest_quantcheck.models.source import Source
from pytest_quantcheck.prompts.sources import BUILTIN
from tests.docs.pages import PAGES, ROOT, Block, Folder, blocks, check, is_slow, look_at, run
from tests.models.gguf_files import spell_builtin, write_gguf


@pytest.fixture(scope="session")
def warm():
    """Import what runs import late, and the studies whose command lines are parsed.

    Pytester forgets what is first imported within a run, and torch does not bear being imported twice.
    """
    for module in pkgutil.walk_packages(pytest_quantcheck.__path__, "pytest_quantcheck."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for module in pkgutil.iter_modules([str(ROOT / "tests" / "studies")], "tests.studies."):
        if ".test_" not in module.name:
            importlib.import_module(module.name)
    with load(Source("builtin"), "int8"):
        pass


def give_model(path):
    """Put the built-in model there, as a checkpoint."""
    names = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    path.mkdir()
    for name in names:
        shutil.copy(DIRECTORY / name, path)


def give_hub(path):
    """Put a hub's cache there, in which the built-in model stands for one that was fetched before."""
    fetched, commit = path / "models--HuggingFaceTB--SmolLM2-135M-Instruct", "a" * 40
    (fetched / "refs").mkdir(parents=True)
    (fetched / "refs" / "main").write_text(commit)
    (fetched / "snapshots").mkdir()
    give_model(fetched / "snapshots" / commit)


def give_int8(path):
    """Put the built-in model there, saved as LLM.int8()."""
    give_model(path)
    with load(Source("builtin"), "int8") as loaded:
        loaded.model.save_pretrained(path)


def give_gguf(path):
    """Put the built-in model there, as a GGUF file."""
    write_gguf(spell_builtin(path.parent / "spelled"), path, "Q8_0")


def give_questions(path):
    """Put the first 64 of the built-in prompts there, as CSV."""
    rows = [json.loads(line) for line in BUILTIN.read_text(encoding="utf-8").splitlines()[:64]]
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("prompt", "gold"), *((row["prompt"], row["gold"]) for row in rows)])


PLACE = ROOT / "docs" / "tutorial.md"
GIVERS = {
    "hub": give_hub,
    "my-model": give_model,
    "my-model-int8": give_int8,
    "my-model.gguf": give_gguf,
    "questions.csv": give_questions,
}


@pytest.fixture
def folder(warm, pytester, capsys, monkeypatch):
    """An empty folder in which a page is run, with pytest and our commands in this process."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(pytester.path / "hub"))

    def in_process(arguments):
        found = pytester.runpytest_inprocess("-W", "default", *arguments)
        return int(found.ret), "\n".join([*found.outlines, *found.errlines])

    def command(arguments):
        capsys.readouterr()
        status = main(arguments)
        return status, "".join(capsys.readouterr())

    return Folder(pytester.path, in_process, command, GIVERS)


def named(page):
    """How a page is called in test ids."""
    return str(page.relative_to(ROOT))


@pytest.mark.ci
@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.slow] * is_slow(page), id=named(page)) for page in PAGES]
)
def test_page_does_what_it_says(page, folder):
    """Every block of a page runs, or is what it is said to be, and output is as the page shows it."""
    run(page, folder)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_what_is_not_run_says_why(page):
    """A block is run, checked or left out for a stated reason; nothing else is hidden in a comment above a fence."""
    lines = ["", *page.read_text(encoding="utf-8").splitlines()]
    for block in blocks(page):
        above = lines[block.line - 1].strip()
        assert bool(block.mark) == above.startswith("<!--"), f"{block.place}: what does {above!r} mean?"
        assert not block.mark or len(block.word.strip()) > 3


def commands_of(text):
    """A block of commands; of its page the place alone is used."""
    return Block(PLACE, 1, "console", text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("$ echo other\nshown\n", "printed\nother"),
        ("$ false\n", "ended with 1"),
        ("$ false\n$ true\n", "before `true` ended with 1"),
        ("no prompt\n", "expected a line with `\\$ `"),
    ],
)
def test_wrong_page_is_seen(text, said, folder, monkeypatch):
    """Other output, a failure that is not said, and a line that is no command each fail the page."""
    monkeypatch.setattr("tests.docs.pages.blocks", lambda _: [commands_of(text)])
    with pytest.raises(AssertionError, match=said):
        run(PLACE, folder)


def test_right_page_passes(folder, monkeypatch):
    """Output may be cut with dots, and a status may be shown with `echo $?`."""
    text = "$ printf 'one\\ntwo\\nthree\\n'\none\n…e\n$ false\n$ echo $?\n1\n$ cat <<'END'\n$ x\nEND\n"
    monkeypatch.setattr("tests.docs.pages.blocks", lambda _: [commands_of(text)])
    run(PLACE, folder)


@pytest.mark.parametrize(
    "text",
    [
        "$ make nothing\n",
        "$ python -m tests.studies.nothing\n",
        "$ python tests/nothing.py\n",
        "$ python -m tests.studies.coverage --nothing\n",
        "$ python -m tests.studies.release --model=builtin --folder=release --nothing=1\n",
        "$ python tests/studies/limits.py builtin\n",
        "$ pytest tests/nothing\n",
        "$ pytest --quantcheck-nothing\n",
        "$ pytest --quantcheck-bits=7\n",
    ],
)
def test_missing_thing_is_seen_without_running(text):
    """A command that is not run must still be about something that exists."""
    with pytest.raises((AssertionError, KeyError, ValueError, SystemExit)):
        look_at(commands_of(text))


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("ini", "[pytest]\nquantcheck_nothing = 1\n"),
        ("toml", "[tool.pytest.ini_options]\nquantcheck_nothing = 1\n"),
        ("toml", "schema = 1\n"),
        ("python", "def\n"),
        ("sh", "pytest\n"),
    ],
)
def test_wrong_data_is_seen(language, text):
    """An unknown ini key, a profile that is in no file, code that does not parse and an unknown language fail."""
    with pytest.raises((AssertionError, SyntaxError)):
        check(Block(ROOT / "README.md", 1, language, text), None)
