"""`report.html` beside `report.json`: written where its extra is installed, and never the cause of a verdict."""

import json

import pytest

from tests.plugin.test_reports import QUICK, TWO

WITHOUT_MATPLOTLIB = """
import sys


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")


sys.meta_path.insert(0, Blocker())
"""
IN_THE_WAY = """
from pathlib import Path


def pytest_runtest_setup(item):
    Path("report/report.html").mkdir(parents=True, exist_ok=True)
    Path("report/report.html/other").touch()
"""


def test_page_is_written_beside_the_report(whole_run):
    """Both candidates, their metrics and the prompts that flipped, with their texts."""
    page = (whole_run.directory / "report" / "report.html").read_text(encoding="utf-8")
    report = json.loads((whole_run.directory / "report" / "report.json").read_bytes())
    assert "report: report/report.html" in whole_run.lines
    assert "<h1>Not fit for release: nf4</h1>" in page
    assert page.count('<table class="metrics"') == 2
    flips = [flip for comparison in report["comparisons"] for flip in comparison["flips"]]
    assert page.count("<strong>row ") == len(flips) > 0
    assert all(f"“{flip['candidate']['text']}”" in page for flip in flips)


def test_without_the_extra_a_sentence_says_what_to_install(pytester):
    """Without matplotlib report.json is there, the verdicts stand, and one line names the extra."""
    pytester.makeconftest(WITHOUT_MATPLOTLIB)
    found = pytester.runpytest_subprocess("-p", "no:cacheprovider", *QUICK, TWO[0], "--quantcheck-report=report")
    assert found.ret == 0
    missing = "no report.html: No module named 'matplotlib'; install what it needs with "
    assert " ".join(found.outlines).count(f"{missing}pip install 'pytest-quantcheck[report]'") == 1
    assert [path.name for path in (pytester.path / "report").iterdir()] == ["report.json"]


def test_page_that_cannot_be_written_costs_no_verdict(gate, pytester):
    """Something lies where the page should go: one sentence says so, report.json is written, the outcome stands."""
    pytester.makeconftest(IN_THE_WAY)
    found = gate(*QUICK, TWO[0], "--quantcheck-report=report")
    assert found.status == 0
    (line,) = [line for line in found.lines if "report.html" in line]
    assert line.startswith("no report.html, the verdicts stand: ")
    assert "report: report/report.json" in found.lines


def test_drawing_that_fails_costs_no_verdict(gate, monkeypatch):
    """Whatever the libraries behind the page raise, the gate's result stands and the problem is said once."""
    monkeypatch.setattr("pytest_quantcheck.reporting.html.page._environment", lambda: 1 / 0)
    found = gate(*QUICK, TWO[0], "--quantcheck-report=report")
    assert found.status == 0
    said = "no report.html, the verdicts stand: ZeroDivisionError: division by zero; this is a fault of the plugin"
    assert found.sentences.count(said) == 1


@pytest.mark.slow
def test_workers_write_the_same_report(gate):
    """Two candidates over two workers: the same records in the same order, and so the same page, as one process."""
    both = [argument.replace("bits=8", "bits=8,4") for argument in QUICK]
    one = gate(*both, *TWO, "--quantcheck-report=one")
    two = gate(*both, *TWO, "--quantcheck-report=two", "-n", "2")
    reports = [
        json.loads((run.directory / name / "report.json").read_bytes()) for run, name in ((one, "one"), (two, "two"))
    ]
    assert len(reports[0]["comparisons"]) == 2
    for part in ("verdicts", "comparisons", "outcome"):
        assert reports[0][part] == reports[1][part]
    pages = [(run.directory / name / "report.html").read_text() for run, name in ((one, "one"), (two, "two"))]
    for page, name, report in zip(pages, ("one", "two"), reports, strict=True):
        assert f"<bdi>{name}</bdi>" in page
        assert report["created"][:10] in page
    assert len(pages[0]) == len(pages[1])
