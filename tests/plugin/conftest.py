"""Real runs of pytest on the built-in model, as few as the promises need."""

import importlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from pytest_quantcheck.models import builtin
from pytest_quantcheck.models.loading import load
from pytest_quantcheck.models.source import Source

MODEL = "--quantcheck-model=builtin"

PROFILE = """
schema = 1
name = "trial"
version = 3
description = "Limits on which the two candidates part, whatever the default profile says."

[decision]
confidence = 0.95
inconclusive = "warn"

[metrics.flip_rate]
max = 0.14
evidence = "the exact interval of 0 to 7 flips of 24 holds it: inconclusive; the other 17 answers are no close ones"

[metrics.kl_divergence]
max = 10
evidence = "far above what quantization does"

[metrics.salient_overlap]
min = 0.05
evidence = "far below what quantization does"

[metrics.redundancy_change]
max = 0.01
evidence = "int8 0.002, nf4 0.029"
"""

USERS = """
import gc
import warnings
import weakref

from pytest_quantcheck import assert_flip_rate, assert_kl_divergence, assert_redundancy_change

ALIVE = []


def assert_freed():
    gc.collect()
    assert ALIVE.pop()() is None


def test_gate_compares(quantcheck):
    comparison = quantcheck.compare("int8")
    assert comparison is quantcheck.compare("8", "builtin")
    assert assert_kl_divergence(comparison, limit=5).status == "passed"
    assert assert_kl_divergence(comparison).limit_source == "trial@3"


def test_reference(quantcheck_reference_model):
    loaded = quantcheck_reference_model
    assert loaded.dtype == "bf16" and loaded.tokenizer("1")["input_ids"]
    ALIVE.append(weakref.ref(loaded.model))


def test_reference_freed():
    assert_freed()


def test_int8(quantcheck_int8_model):
    assert "Linear8bitLt" in quantcheck_int8_model.module_types
    ALIVE.append(weakref.ref(quantcheck_int8_model.model))


def test_int8_freed():
    assert_freed()


def test_candidate(quantcheck_bits, quantcheck_candidate_model):
    assert quantcheck_candidate_model.bits == quantcheck_bits


def test_limit_is_kept(quantcheck):
    assert_redundancy_change(quantcheck.compare("nf4"), limit=0.001)


def test_doubt_warns_here(quantcheck):
    assert_flip_rate(quantcheck.compare("int8"))
"""

LISTENING = """
def pytest_runtest_logreport(report):
    with open("carried.txt", "a") as file:
        file.writelines(f"{kind}\\n" for kind in getattr(report, "quantcheck", ()))
"""


@dataclass(frozen=True)
class Run:
    """What is left of a run of pytest: its status, its output's lines and the directory it ran in."""

    status: int
    lines: list[str]
    directory: Path

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def sentences(self) -> str:
        """The output without its line breaks, which stand where there was no room."""
        return " ".join(self.lines)

    @property
    def ids(self) -> list[str]:
        """Node ids that `--collect-only -q` lists."""
        return [line for line in self.lines if "::" in line]

    @property
    def junit(self) -> dict[str, dict[str, str]]:
        """The properties of each test case of the packaged suite, by its name."""
        cases = ET.parse(self.directory / "junit.xml").iter("testcase")
        return {
            case.get("name", ""): {str(p.get("name")): str(p.get("value")) for p in case.iter("property")}
            for case in cases
            if case.get("classname") == "quantcheck"
        }


@pytest.fixture(scope="session", autouse=True)
def _warm():
    """Import what a run imports late: pytester forgets all that is first imported within a run, and torch does not
    bear being imported twice."""
    for module in (
        "run.gate",
        "suite.session",
        "assertions",
        "comparing",
        "measuring",
        "storage",
        "controls.nulls",
        "reporting.html.page",
    ):
        importlib.import_module(f"pytest_quantcheck.{module}")
    with load(Source("builtin"), "int8"):
        pass


@pytest.fixture
def gate(pytester):
    """Runs pytest in this process, with these arguments, in an empty directory, without scored tokens unless told.

    Warnings are what they are for users: these tests' own rule, that each is an error, would reach into the run.
    """

    def run(*arguments, **options):
        quick = ("-W", "default", "-o", "quantcheck_continuation=0")
        result = pytester.runpytest_inprocess(*quick, *arguments, **options)
        return Run(int(result.ret), result.outlines + result.errlines, pytester.path)

    return run


@pytest.fixture
def undrawn(monkeypatch):
    """Leave the figures out of a report's page: of a short run they take most of the time.

    Not for `whole_run`, whose page `test_page.py` looks at.
    """
    for figures in ("group_figures", "paper_figures"):
        monkeypatch.setattr(f"pytest_quantcheck.reporting.html.page.{figures}", lambda *_: iter(()))


@pytest.fixture(scope="session")
def _runs():
    return {}


@pytest.fixture
def whole_run(_runs, gate, pytester):
    """One run of everything: two candidates, a user's tests, report and JUnit file; made when first needed."""
    if not _runs:
        pytester.makefile(".toml", trial=PROFILE)
        pytester.makepyfile(test_users=USERS)
        pytester.makeconftest(LISTENING)
        _runs["whole"] = gate(
            MODEL,
            "--quantcheck-samples=24",
            "--quantcheck-layers=2",
            "--quantcheck-attribution-samples=8",
            "--quantcheck-profile=trial.toml",
            "--quantcheck-report=report",
            "--junitxml=junit.xml",
            "-rfs",
        )
    return _runs["whole"]


@pytest.fixture
def checkpoint(tmp_path):
    """A copy of the built-in model, to be damaged."""
    names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for name in names:
        shutil.copy(builtin.DIRECTORY / name, folder)
    return folder


@pytest.fixture
def refused(gate):
    """Runs pytest and demands exit status 4 with one sentence, before anything is collected; gives the sentence."""

    def run(*arguments, model="builtin"):
        named = [f"--quantcheck-model={model}"] if model else []
        found = gate(*named, "--quantcheck-only", *arguments)
        assert found.status == pytest.ExitCode.USAGE_ERROR, found.text
        assert not re.search("INTERNALERROR|Traceback|collected|session starts", found.text)
        (sentence,) = (line.removeprefix("ERROR: ") for line in found.lines if line)
        return sentence

    return run
