"""Pages of Markdown that are run: their blocks in order, in one empty folder, against the output that they show.

A comment above a fence says what is done with it; `python -m tests.docs.pages` lists what was done with each:

    <!-- file: NAME -->        the block is written into the folder
    <!-- not run: REASON -->   it is only looked at: do its modules, files and targets exist, and take these options?
    <!-- slow: REASON -->      first line of a page that takes long: it is run with the slow tests
    <!-- given: NAME, NAME --> what lies in the folder of a page that does not make it itself
"""

from __future__ import annotations

import configparser
import importlib
import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pytest_quantcheck.commands.parser import parser
from pytest_quantcheck.options import OPTIONS
from pytest_quantcheck.profiles import load_profile

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OPTION = {option.flag: option for option in OPTIONS}
INI = {option.dest for option in OPTIONS}

_MARK = re.compile(r"<!-- (file|not run): (.+) -->")
_SLOW = re.compile(r"<!-- slow: .+ -->")
_GIVEN = re.compile(r"^<!-- given: (.+) -->$", re.MULTILINE)
_FENCE = re.compile(r"^( *)```(.*)$")
_HERE = re.compile(r"<<'(\w+)'")
_CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV"))}


@dataclass(frozen=True)
class Block:
    """A fenced block: where it begins, its language, its text, and what the comment above it says."""

    page: Path
    line: int
    language: str
    text: str
    mark: str = ""
    word: str = ""

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class Command:
    """What stands behind `$ `, and the output that the page shows for it, `…` standing for anything."""

    text: str
    shown: str


@dataclass
class Folder:
    """Where a page is run; `pytest` runs pytest in this process, and `command` our own: both give status and output."""

    path: Path
    pytest: Callable[[list[str]], tuple[int, str]]
    command: Callable[[list[str]], tuple[int, str]]
    givers: dict[str, Callable[[Path], object]]
    names: dict[str, Any] = field(default_factory=dict)


def is_slow(page: Path) -> bool:
    """Whether the page says so in its first line."""
    return bool(_SLOW.match(page.read_text(encoding="utf-8")))


def blocks(page: Path) -> Iterator[Block]:
    """Yield each fenced block of a page; one that is not closed is an error."""
    above, lines = "", iter(enumerate(page.read_text(encoding="utf-8").splitlines(), start=1))
    for number, line in lines:
        if fence := _FENCE.match(line):
            inside = []
            while (text := next(lines)[1]) != f"{fence[1]}```":
                inside.append(text.removeprefix(fence[1]))
            mark, word = found.groups() if (found := _MARK.fullmatch(above.strip())) else ("", "")
            yield Block(page, number, fence[2], "\n".join(inside) + "\n", mark, word)
        above = line


def commands(block: Block) -> Iterator[Command]:
    """Yield the commands of a `console` block, continued lines and here-documents included."""
    lines = block.text.splitlines()
    while lines:
        first = lines.pop(0)
        assert first.startswith("$ "), f"{block.place}: expected a line with `$ `, got {first!r}"
        text = [first.removeprefix("$ ")]
        while text[-1].endswith("\\"):
            text.append(lines.pop(0))
        if end := _HERE.search(text[-1]):
            while text[-1] != end[1]:
                text.append(lines.pop(0))
        shown = []
        while lines and not lines[0].startswith("$ "):
            shown.append(lines.pop(0).rstrip())
        yield Command("\n".join(text), "\n".join(shown))


def run(page: Path, folder: Folder) -> None:
    """Do with each block of the page what its language and its mark say."""
    for given in _GIVEN.findall(page.read_text(encoding="utf-8")):
        for name in given.split(", "):
            folder.givers[name](folder.path / name)
    for block in blocks(page):
        if block.mark == "not run":
            look_at(block)
        elif block.mark == "file":
            (folder.path / block.word).parent.mkdir(parents=True, exist_ok=True)
            (folder.path / block.word).write_text(block.text, encoding="utf-8")
            check(block, folder.path / block.word)
        elif block.language == "console":
            _run_console(block, folder)
        elif block.language == "python":
            exec(compile(block.text, block.place, "exec"), folder.names)
        else:
            check(block, None)


def look_at(block: Block) -> None:
    """Check what can be known of commands that are not run: make's targets, files, modules, and that each is parsed."""
    for command in commands(block) if block.language == "console" else ():
        words = shlex.split(re.sub(r"\\\n|\$(?=')", "", command.text), comments=True)
        if words[:1] == ["make"]:
            makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), f"{block.place}: make has no {words[1]}"
        elif words[:3] == ["python", "-m", "pytest_quantcheck"]:
            parser().parse_args(words[3:])
        elif words[:1] == ["python"]:
            name, rest = (words[2], words[3:]) if words[1] == "-m" else (words[1], words[2:])
            _parse_study(block, name.removesuffix(".py").replace("/", "."), rest)
        elif words[:1] == ["pytest"]:
            missing = [word for word in words[1:] if word.startswith("tests/") and not (ROOT / word).exists()]
            assert not missing, f"{block.place}: there is no {missing}"
        for flag, _, value in (word.partition("=") for word in words if word.startswith("--quantcheck")):
            OPTION[flag].value([value] if OPTION[flag].kind == "list" else value or None)


def _parse_study(block: Block, module: str, words: list[str]) -> None:
    """Let a script of the repository read its command line, if it has options, and do nothing else."""
    assert (ROOT / f"{module.replace('.', '/')}.py").exists(), f"{block.place}: there is no {module}"
    parse = getattr(importlib.import_module(module), "parse", None)
    if parse:
        parse(words)


def check(block: Block, written: Path | None) -> None:
    """Check a block that is data: it can be read, and a profile or our options in it are such as we take."""
    if block.language == "python":
        compile(block.text, block.place, "exec")
    elif block.language == "toml":
        found = tomllib.loads(block.text)
        if "schema" in found:
            assert written, f"{block.place}: a profile needs a file to be written to"
            load_profile(str(written))
        _check_ini(block, found.get("tool", {}).get("pytest", {}).get("ini_options", {}))
    elif block.language == "ini":
        ini = configparser.ConfigParser(interpolation=None)
        ini.read_string(block.text)
        _check_ini(block, ini["pytest"])
    elif block.language in {"yaml", "yml"}:
        yaml.safe_load(block.text)
    else:
        assert written or block.language == "text", f"{block.place}: say what to do with a block of {block.language!r}"


def _check_ini(block: Block, keys: Any) -> None:
    unknown = [key for key in keys if key.startswith("quantcheck") and key not in INI]
    assert not unknown, f"{block.place}: there are no options {unknown}"


def _run_console(block: Block, folder: Folder) -> None:
    status = 0
    for command in commands(block):
        if command.text == "echo $?":
            output, status = f"{status}", 0
        else:
            assert status == 0, f"{block.place}: the command before `{command.text}` ended with {status}:\n{output}"
            status, output = _run(command.text, folder)
        if command.shown:
            lines = "\n".join(line.rstrip() for line in output.strip().splitlines())
            wanted = re.escape(command.shown.strip()).replace("…", "(?s:.*)")
            assert re.fullmatch(wanted, lines), f"{block.place}: `{command.text}` printed\n{lines}"
    assert status == 0, f"{block.place}: `{command.text}` ended with {status}:\n{output}"


def _run(text: str, folder: Folder) -> tuple[int, str]:
    plain = not re.search(r"[|<>;&]|\$\(", re.sub(r"'[^']*'", "", text))
    words = shlex.split(text.replace("\\\n", " "), comments=True) if plain else []
    if words[:1] == ["pytest"] and "-n" not in words:
        return folder.pytest(words[1:])
    if words[:3] == ["python", "-m", "pytest_quantcheck"]:
        return folder.command(words[3:])
    if words[:1] == ["python"] and words[1].endswith(".py"):
        runpy.run_path(str(folder.path / words[1]), run_name="__main__")
        return 0, ""
    python = f'python() {{ "{sys.executable}" "$@"; }}; pytest() {{ python -m pytest "$@"; }}\n'
    found = subprocess.run(
        ["bash", "-c", python + text],
        cwd=folder.path,
        env=_CLEAN | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,  # what takes longer is not to be run here
    )
    return found.returncode, found.stdout


if __name__ == "__main__":
    for one in (block for page in PAGES for block in blocks(page)):
        how = f"{one.mark}: {one.word}" if one.mark else "run" if one.language in {"console", "python"} else "checked"
        print(f"{one.place}: {one.language}: {how}")
