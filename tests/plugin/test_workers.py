"""pytest-xdist: the same verdicts as without, one report, and no model measured twice."""

import json
import os
import re

import pytest

from pytest_quantcheck.profiles import load_profile
from tests.plugin.conftest import Run
from tests.plugin.test_reports import count_tables

LOADS = """
import os
from pytest_quantcheck.reporting import progress_line
from pytest_quantcheck.run.local_models import LocalModels

progress_line.REPEAT = 0.0

load = LocalModels.load

def counted(self, target):
    with open(os.environ["LOADS"], "a") as file:
        file.write(f"{target.name}\\n")
    return load(self, target)

LocalModels.load = counted
"""
QUICK = (
    "--quantcheck-model=builtin",
    "--quantcheck-controls",
    "--quantcheck-samples=12",
    "--quantcheck-layers=2",
    "--quantcheck-continuation=2",
    "--quantcheck-attribution-samples=5",
    "-k",
    "not control or null-batches",
)
MODELS = ("reference", "int8", "nf4", "null-batches")

pytestmark = pytest.mark.ci


@pytest.fixture(scope="module")
def runs():
    """What `two_workers` has run."""
    return {}


@pytest.fixture
def two_workers(runs, pytester, monkeypatch):
    """One run of the whole suite, a control and a user's test with two workers, made when first needed."""
    if not runs:
        pytester.makepyfile(loads=LOADS, test_user="def test_user(): pass")
        monkeypatch.setenv("PYTHONPATH", str(pytester.path), prepend=os.pathsep)
        monkeypatch.setenv("LOADS", str(pytester.path / "loads.txt"))
        files = ("--quantcheck-report=report", "--junitxml=junit.xml")
        found = pytester.runpytest_subprocess(*QUICK, *files, "-n", "2", "-p", "loads")
        runs["two"] = Run(int(found.ret), found.outlines + found.errlines, pytester.path)
    return runs["two"]


def test_two_workers_find_what_one_process_finds(two_workers, gate):
    """Each model is loaded once, in whichever worker; every estimate and verdict is the same to the last bit."""
    alone = gate(*QUICK, "--quantcheck-report=report")
    assert sorted((two_workers.directory / "loads.txt").read_text().split()) == sorted(MODELS)
    assert two_workers.status == alone.status
    found, expected = (read(run, "report.json") for run in (two_workers, alone))
    assert len(found["verdicts"]) > 10
    for kind in ("comparisons", "verdicts"):
        assert in_order(found[kind]) == in_order(expected[kind])
    assert found["certificate"]["controls"] == expected["certificate"]["controls"]


def test_verdicts_arrive_once(two_workers):
    """The controller alone prints the table and writes the report and JUnit's file, whichever worker measures."""
    assert count_tables(two_workers) == 1
    assert [two_workers.lines.count(f"{bits} on builtin: 12 prompts") for bits in ("int8", "nf4")] == [1, 1]
    verdicts = read(two_workers, "report.json")["verdicts"]
    judged = {f"test_{one['metric']}[{one['candidate']}-builtin]": one["status"] for one in verdicts}
    assert len(judged) == len(verdicts)
    found = {name: facts.get("quantcheck_status", "control") for name, facts in two_workers.junit.items()}
    assert {name: status for name, status in found.items() if status not in {"not gated", "control"}} == judged
    assert len(found) == 2 * len(load_profile("default@2").metrics) + 1
    warnings = [line for line in two_workers.lines if "Warning: " in line]
    assert all("QuantcheckWarning: " in line for line in warnings), "a worker imports every library within the run"


def test_progress_comes_out_at_the_controller(two_workers):
    """The worker that measures is heard, and not those that wait for it."""
    told = re.findall(r"^(.+ on builtin, \w+: \d+) prompts in ", two_workers.text, re.MULTILINE)
    phases = {"measuring": 12, "attributing": 5}
    heard = [f"{model} on builtin, {phase}: {n}" for model in MODELS for phase, n in phases.items()]
    assert sorted(told) == sorted(heard)
    assert "waiting" not in two_workers.text


def test_controls_arrive_once(two_workers):
    """The controller alone prints them, whichever worker measures."""
    assert sum(line.startswith("null    null-batches  ") for line in two_workers.lines) == 1
    (control,) = read(two_workers, "certificate.json")["controls"]
    assert control["control"] == "null-batches"


def read(run, name):
    """A file of the run's report."""
    return json.loads((run.directory / "report" / name).read_text())


def in_order(records):
    """Workers finish when they do."""
    return sorted(records, key=lambda one: (one["candidate"], one.get("metric")))
