"""What is gathered from the reports of tests, in whatever order and however often they come."""

import shutil
from functools import partial
from types import SimpleNamespace

import msgspec
import pytest

from pytest_quantcheck.controls.catalogue import CONTROLS
from pytest_quantcheck.controls.certificate import without_verdicts
from pytest_quantcheck.prompts.sources import BUILTIN
from pytest_quantcheck.records import Estimate, Verdict
from pytest_quantcheck.run.gate import Gate
from pytest_quantcheck.suite.items import cases_by_nodeid
from pytest_quantcheck.suite.results import Results
from tests.gates import settings

CRASH = "worker 'gw0' crashed while running 'quantcheck::test_ace_drift[nf4-builtin]'"


@pytest.fixture
def results():
    """Those of a run with two candidates and all controls, of which nothing has come yet."""
    return Results(Gate(settings(bits=("int8", "nf4"), controls=True)))


def report(metric, candidate, outcome="passed", when="call", text=None, **carried):
    """The report of a packaged test, as it comes from a worker."""
    found = pytest.TestReport(f"quantcheck::test_{metric}[{candidate}-builtin]", ("", 0, ""), {}, outcome, text, when)
    found.quantcheck = {kind: msgspec.json.encode(record).decode() for kind, record in carried.items()}
    return found


def judged(metric, candidate, *, status="passed", acceptable=True, **options):
    """The report of a test that reached a verdict."""
    verdict = Verdict(
        metric=metric,
        candidate=candidate,
        prompt_set="builtin",
        status=status,
        acceptable=acceptable,
        warning=False,
        estimate=Estimate(metric=metric, value=0.0, confidence=0.95, n_prompts=12, method=""),
        limit=1.0,
        direction="max",
        limit_source="default@2",
        profile="default@2",
    )
    return report(metric, candidate, verdict=verdict, **options)


def test_verdicts_are_in_the_order_of_the_suite(results):
    """Whichever worker was first, and whether or not a plugin has run a test again."""
    names = [(metric, candidate) for candidate in ("int8", "nf4") for metric in ("ace_drift", "flip_rate")]
    for name in (*reversed(names), names[0]):
        results.take(judged(*name))
    assert [(verdict.metric, verdict.candidate) for verdict in results.verdicts] == names


@pytest.mark.parametrize(("when", "text"), [("???", CRASH), ("setup", "no such fixture\n  here"), ("call", "")])
def test_test_without_a_verdict_has_a_cause(when, text, results):
    """A worker that died, a setup that failed: the candidate was not judged, and the reason is one line."""
    found = report("ace_drift", "nf4", "failed", when, text)
    found.node = SimpleNamespace(_workerinfocache="[gw0] linux")  # what xdist prints before the text
    results.take(found)
    assert results.causes == {"nf4": [text.partition("\n")[0] or "an error without a message"]}
    assert results.outcomes == {"failed" if when == "call" else "error"}
    assert results.outcome == ("failed" if when == "call" else "broken")


def test_control_that_came_to_nothing_has_failed(results):
    """A worker that died over a control: a certificate must not pass for want of it."""
    results.take(report("control", "null-dtype", "failed", "???", "worker 'gw1' crashed"))
    (found,) = results.controls
    assert (found.control, found.outcome, found.reason) == ("null-dtype", "failed", "worker 'gw1' crashed")
    assert not results.causes


def test_verdict_needs_no_cause(results):
    """A test that failed with a verdict is no riddle, nor is one whose teardown went wrong after it."""
    ended = partial(report, "ace_drift", "nf4", "failed")
    for found in (judged("ace_drift", "nf4", outcome="failed"), ended("teardown", "a fixture of the user's")):
        results.take(found)
    assert not results.causes
    assert len(results.verdicts) == 1


def test_users_tests_are_none_of_ours(results):
    """A test of another file leaves nothing."""
    results.take(pytest.TestReport("test_user.py::test_one", ("", 0, ""), {}, "failed", "its own", "call"))
    assert not results.outcomes
    assert not results.causes


def test_outcome_follows_verdicts_not_marks(results):
    """A mark that lets a failed test pass forgives nothing; the test is named."""
    failed = {"status": "failed", "acceptable": False}
    results.take(judged("ace_drift", "int8", outcome="skipped", **failed))
    assert results.outcome == "failed"
    assert results.forgiven == ["quantcheck::test_ace_drift[int8-builtin]"]


def test_what_was_not_run_is_partial(results):
    """Tests without a report, and tests that a mark skipped before they began."""
    results.take(judged("ace_drift", "int8"))
    results.take(report("flip_rate", "int8", "skipped", "setup"))
    assert results.outcome == "partial"
    int8, nf4, *controls = results.not_run
    assert (int8.candidate, int8.whole, nf4.candidate, nf4.whole) == ("int8", False, "nf4", True)
    assert "quantcheck::test_flip_rate[int8-builtin]" in int8.tests
    assert "quantcheck::test_ace_drift[int8-builtin]" not in int8.tests
    assert {one.candidate for one in controls} == set(CONTROLS)


def test_whole_gate_passes(results):
    """A skip of the plugin's own, for want of a limit, is a test that was run."""
    for metric, candidate, _ in cases_by_nodeid(results._gate).values():
        if metric == "control":
            passed = without_verdicts(candidate, "builtin", "passed", "")
            results.take(report(metric, candidate, control=passed))
        elif metric == "flip_rate":
            results.take(report(metric, candidate, "skipped"))
        else:
            results.take(judged(metric, candidate))
    assert (results.not_run, results.outcome) == ((), "passed")


def test_each_prompt_set_needs_a_verdict(tmp_path):
    """Nothing judged on one of two sets fails, and the set is named."""
    copy = shutil.copy(BUILTIN, tmp_path / "copy.jsonl")
    found = Results(Gate(settings(prompts=("builtin", str(copy)))))
    found.take(judged("ace_drift", "int8"))
    skipped = pytest.TestReport("quantcheck::test_ace_drift[int8-copy]", ("", 0, ""), {}, "skipped", None, "call")
    found.take(skipped)
    found.find_unjudged()
    assert found.outcome == "failed"
    assert [cause.partition(":")[0] for cause in found.causes["int8"]] == ["nothing was judged of int8 on copy"]
