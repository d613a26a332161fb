"""Terminal, report.json, page, Markdown and exit status have one outcome: that of the verdicts, and of all of them."""

import json

import pytest

OK, FAILED, INTERRUPTED = pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED
XFAIL = """
import pytest

def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(pytest.mark.xfail(reason="known"))
"""
QUICK = (
    "--quantcheck-only",
    "--quantcheck-model=builtin",
    "--quantcheck-samples=12",
    "--quantcheck-layers=2",
    "--quantcheck-bits=8,4",
    "--quantcheck-attribution=off",
    "--quantcheck-report=out",
    "--quantcheck-cache=cache",
)
UNFIT = "--quantcheck-fail=redundancy_change:0.0001"


@pytest.fixture
def run(gate, pytester, tmp_path_factory, monkeypatch):
    """Runs a gate whose measurements are shared; gives it, report.json or None, and the step summary."""
    cache = tmp_path_factory.getbasetemp() / "one-outcome"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(pytester.path / "summary.md"))

    def run(*arguments):
        found = gate(*QUICK, f"--quantcheck-cache={cache}", *arguments)
        path, summary = found.directory / "out" / "report.json", pytester.path / "summary.md"
        return found, json.loads(path.read_text()) if path.exists() else None, summary.read_text()

    return run


@pytest.mark.ci
def test_expected_failures_fail(run, pytester):
    """Marks of users forgive no verdict: exit status and report say failed, and a sentence says why."""
    pytester.makeconftest(XFAIL)
    found, report, _ = run(UNFIT)
    assert (found.status, report["outcome"]) == (FAILED, "failed")
    assert "the verdicts of these tests count, whatever a mark or plugin made of them" in found.sentences


@pytest.mark.ci
@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        (("-k", "int8"), "every test of nf4"),
        (("--deselect=quantcheck::test_flip_rate[nf4-builtin]",), "quantcheck::test_flip_rate[nf4-builtin]"),
    ],
    ids=["a candidate", "a test"],
)
def test_part_of_a_gate_is_partial(run, arguments, missing):
    """It is green, and no output takes it for a release: the first sentence names what was not run."""
    found, report, summary = run(*arguments)
    assert (found.status, report["outcome"]) == (OK, "partial")
    page = (found.directory / "out" / "report.html").read_text()
    first = found.sentences.partition("= quantcheck: builtin =")[2].lstrip("= ")
    assert first.startswith("a part of the gate: ")
    for text in (first, page.partition("</header>")[0], summary.replace("\\", "")):
        assert missing in text
    assert "<h1>A part of the gate: " in page
    assert [test for one in report["not_run"] for test in one["tests"]]


@pytest.mark.ci
def test_cut_run_leaves_no_earlier_report(run, pytester):
    """A green report in the same directory is gone before the run is cut."""
    _, report, _ = run()
    assert report["outcome"] == "passed"
    (pytester.path / "out" / "certificate.json").write_text("{}")
    found, report, summary = run(UNFIT, "--sw")
    assert (found.status, report) == (INTERRUPTED, None)
    assert [path.name for path in (pytester.path / "out").iterdir()] == []
    assert "no report: the run was cut short" in found.sentences
    assert "the run was cut short" in summary


@pytest.mark.parametrize("idle", ["--collect-only", "--quantcheck-dry-run", "--setup-plan"])
def test_run_without_tests_leaves_the_report(run, pytester, idle):
    """What runs no test takes nothing away."""
    (pytester.path / "out").mkdir()
    (pytester.path / "out" / "report.json").write_text("{}")
    (pytester.path / "summary.md").touch()
    assert run(idle)[1] == {}
