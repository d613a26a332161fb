"""pytest-xdist: the same verdicts as without, one report, and no model measured twice."""

import json
import os

LOADS = """
import os
from pytest_quantcheck.run.local_models import LocalModels

load = LocalModels.load

def counted(self, target):
    with open(os.environ["LOADS"], "a") as file:
        file.write(f"{target.name}\\n")
    return load(self, target)

LocalModels.load = counted
"""
QUICK = (
    "--quantcheck-model=builtin",
    "--quantcheck-only",
    "--quantcheck-samples=12",
    "--quantcheck-layers=2",
    "--quantcheck-attribution-samples=2",
)


def test_two_workers_find_what_one_process_finds(gate, pytester, monkeypatch):
    """Each model is loaded once, in whichever worker; every estimate and verdict is the same to the last bit."""
    pytester.makepyfile(loads=LOADS)
    monkeypatch.setenv("PYTHONPATH", str(pytester.path), prepend=os.pathsep)
    monkeypatch.setenv("LOADS", str(pytester.path / "loads.txt"))
    many = pytester.runpytest_subprocess(*QUICK, "--quantcheck-report=many", "-n", "2", "-p", "loads")
    alone = gate(*QUICK, "--quantcheck-report=one")
    assert sorted((pytester.path / "loads.txt").read_text().split()) == ["int8", "nf4", "reference"]
    assert many.ret == alone.status
    found, expected = (json.loads((pytester.path / name / "report.json").read_text()) for name in ("many", "one"))
    assert len(found["verdicts"]) > 10
    for kind in ("comparisons", "verdicts"):
        assert in_order(found[kind]) == in_order(expected[kind])


def in_order(records):
    """Workers finish when they do."""
    return sorted(records, key=lambda one: (one["candidate"], one.get("metric")))
