"""pytest-xdist: the same verdicts as without, one report, and no model measured twice."""

import json

LOADS = """
import os
from pytest_quantcheck.gate import Gate

load = Gate.load

def counted(self, bits="reference"):
    with open(os.environ["LOADS"], "a") as file:
        file.write(f"{bits}\\n")
    return load(self, bits)

Gate.load = counted
"""
QUICK = ("--quantcheck-model=builtin", "--quantcheck-only", "--quantcheck-samples=12", "--quantcheck-layers=2")
ATTRIBUTED = "--quantcheck-attribution-samples=2"


def test_two_workers_find_what_one_process_finds(gate, pytester, monkeypatch):
    """Each model is loaded once, in whichever worker; every estimate is the same to the last bit."""
    pytester.makepyfile(loads=LOADS)
    pytester.syspathinsert()
    monkeypatch.setenv("LOADS", str(pytester.path / "loads.txt"))
    found = gate(*QUICK, ATTRIBUTED, "--quantcheck-report=two", "-n", "2", "-p", "loads")
    loads = sorted((pytester.path / "loads.txt").read_text().split())
    alone = gate(*QUICK, ATTRIBUTED, "--quantcheck-report=one")
    assert loads == ["int8", "nf4", "reference"]
    assert found.status == alone.status
    two, one = (json.loads((pytester.path / name / "report.json").read_text()) for name in ("two", "one"))
    assert len(two["verdicts"]) == len(one["verdicts"]) > 10

    def sorted_by_name(report, kind):
        return sorted(report[kind], key=lambda one: (one["candidate"], one.get("metric")))

    assert sorted_by_name(two, "comparisons") == sorted_by_name(one, "comparisons")
    assert sorted_by_name(two, "verdicts") == sorted_by_name(one, "verdicts")
