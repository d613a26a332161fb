"""Green means that something was judged, however tests are selected, skipped, deselected or allowed."""

import json
from xml.etree import ElementTree as ET

import pytest

PROFILE = """
schema = 1
name = "trial"
version = 1
description = "Two metrics, one of them from so many prompts up."

[decision]
confidence = 0.95
inconclusive = "warn"

[metrics.kl_divergence]
max = 10
evidence = "far above what quantization does"

[metrics.ace_drift]
max = 0.99
from_prompts = 512
evidence = "more prompts than there are"

[metrics.salient_overlap]
min = 0.001
evidence = "far below what quantization does"
"""
SKIP = """
import pytest

def pytest_collection_modifyitems(items):
    for item in items:
        if "int8" in item.name:
            item.add_marker(pytest.mark.skip(reason="later"))
"""
OK, FAILED, USAGE, EMPTY = (
    pytest.ExitCode.OK,
    pytest.ExitCode.TESTS_FAILED,
    pytest.ExitCode.USAGE_ERROR,
    pytest.ExitCode.NO_TESTS_COLLECTED,
)
QUICK = (
    "--quantcheck-model=builtin",
    "--quantcheck-samples=12",
    "--quantcheck-layers=2",
    "--quantcheck-bits=8",
    "--quantcheck-continuation=0",
    "--quantcheck-profile=trial.toml",
)
ALLOWED = "--quantcheck-allow-unmeasured=salient_overlap"
PLAIN = "def test_plain(): pass\n"


pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def judged(pytester):
    """Runs a gate and returns its exit status and what every kind of output says."""
    pytester.makefile(".toml", trial=PROFILE)

    def run(*arguments, only="--quantcheck-only"):
        attributed = 2 if ALLOWED in arguments else 5  # with fewer than five the overlap is unmeasured
        options = ("--quantcheck-report=out", "--junitxml=junit.xml", f"--quantcheck-attribution-samples={attributed}")
        result = pytester.runpytest_inprocess("-W", "default", *QUICK, *options, *arguments, only)
        path = pytester.path / "out" / "report.json"
        return result, json.loads(path.read_text()) if path.exists() else None

    return run


@pytest.mark.ci
@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ((ALLOWED,), OK),
        (("-k", "kl_divergence"), OK),
        (("-k", "ace_drift or kl_divergence"), OK),
        (("-k", "ace_drift"), FAILED),
        (("quantcheck::test_ace_drift",), FAILED),
        (("quantcheck::test_ace_drift[int8-builtin]",), FAILED),
        (("--deselect=quantcheck::test_kl_divergence", "--deselect=quantcheck::test_salient_overlap"), FAILED),
        (("-k", "salient_overlap", ALLOWED), FAILED),
        (("-k", "salient_overlap or kl_divergence", ALLOWED), OK),
        (("-k", "ace_drift or salient_overlap", ALLOWED), FAILED),
        (("-k", "nowhere"), EMPTY),
    ],
)
def test_status_is_that_of_what_was_judged(judged, arguments, status):
    """Terminal, report.json, the page, JUnit and the exit status say the same."""
    result, report = judged(*arguments)
    assert result.ret == status
    if status == EMPTY:
        assert report is None
        return
    expected = "passed" if arguments == (ALLOWED,) else "partial"
    assert report["outcome"] == (expected if status == OK else "failed")
    failures = ET.parse(result_path(result, "junit.xml")).getroot()[0].get("failures")
    said = result.stdout.str()
    assert (int(failures) > 0) == (status == FAILED)
    assert ("nothing was judged of int8" in said) == (status == FAILED)
    page = result_path(result, "out/report.html").read_text()
    assert ("nothing was judged of int8" in page) == (status == FAILED)
    assert bool(report["causes"]) == (status == FAILED)


def result_path(result, name):
    """Where a file of the run lies: in the directory that it ran in."""
    import pathlib

    return pathlib.Path.cwd() / name


def test_skipped_candidate_is_not_judged(judged, pytester):
    """A mark that skips all tests of a candidate does not release it."""
    pytester.makeconftest(SKIP)
    result, report = judged()
    assert result.ret == FAILED
    assert report["outcome"] == "failed"
    result.stdout.fnmatch_lines(["int8: could not be judged*", "- nothing was judged of int8*"])


def test_deselected_gate_leaves_other_tests_alone(judged, pytester):
    """`--deselect=quantcheck` leaves the gate out on purpose: no candidate was to be judged."""
    pytester.makepyfile(test_plain=PLAIN)
    result, report = judged("test_plain.py", "--deselect=quantcheck", only="-q")
    assert (result.ret, report) == (OK, None)


@pytest.mark.parametrize("dry", [(), ("--quantcheck-dry-run",)])
def test_profile_that_judges_nothing_is_refused(judged, pytester, dry):
    """Its only metric is gated from more prompts up: said before anything is loaded, in a dry run too."""
    head, _, rest = PROFILE.partition("[metrics.kl_divergence]")
    pytester.makefile(".toml", trial=head + "[metrics.ace_drift]" + rest.split("[metrics.ace_drift]")[1].split("[")[0])
    result, report = judged(*dry)
    assert (result.ret, report) == (USAGE, None)
    result.stderr.fnmatch_lines(["*nothing would be judged: trial@1 gates from 512 prompts up, and builtin has 12;*"])


@pytest.mark.parametrize("dry", [(), ("--quantcheck-dry-run",)])
def test_metric_that_can_have_no_value_is_refused(judged, dry):
    """Too few attributed prompts for the overlap, which the profile gates: said before anything is loaded."""
    result, report = judged("--quantcheck-attribution-samples=4", *dry)
    assert (result.ret, report) == (USAGE, None)
    says = "*salient-neuron overlap would be unmeasured: expected at least 5 attributed prompts, got 4. Raise *"
    result.stderr.fnmatch_lines([says])


@pytest.mark.ci
def test_workers_agree(judged):
    """With xdist, too, every test of a candidate of which nothing is judged fails."""
    result, report = judged("-k", "ace_drift", "-n", "1")
    assert result.ret == FAILED
    assert report["outcome"] == "failed"


def test_step_summary_says_it(judged, pytester, monkeypatch):
    """The page that CI shows names the candidate."""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(pytester.path / "summary.md"))
    judged("-k", "ace_drift")
    assert "nothing was judged of int8" in (pytester.path / "summary.md").read_text()
