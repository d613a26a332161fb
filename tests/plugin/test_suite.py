"""The packaged suite is collected, selected and run as pytest users expect of tests."""

import os
import subprocess
import sys
from xml.etree import ElementTree as ET

import pytest

from pytest_quantcheck.profiles import load_profile

NEED_MANY = ("accuracy_drop", "ace_drift")
GATED = load_profile("default@2").metrics
"""Those that the default profile gates from more than ten prompts."""
LIST = ("--quantcheck-model=builtin", "--collect-only", "-q")
ACE = "quantcheck::test_ace_drift[int8-builtin]"

UNGATED = """
schema = 1
name = "trial"
version = 1
description = "Two metrics, the first of which needs more prompts than there are."

[decision]
confidence = 0.95
inconclusive = "warn"

[metrics.confidence_drift]
max = 0.5
from_prompts = 512
evidence = "more prompts than there are"

[metrics.kl_divergence]
max = 10
evidence = "far above what quantization does"
"""

LIGHT = """
import sys
import pytest
status = pytest.main(sys.argv[1:])
print("status:", int(status))
print("heavy:", *(name for name in ("torch", "transformers", "bitsandbytes") if name in sys.modules))
"""


@pytest.fixture
def user_tests(pytester):
    """Two test files of a user's own, the second of which sorts behind `quantcheck`."""
    pytester.makepyfile(test_a="def test_one(): pass\ndef test_two(): pass", test_z="def test_three(): pass")
    return ["test_a.py::test_one", "test_a.py::test_two", "test_z.py::test_three"]


@pytest.fixture
def alone(pytester):
    """Runs pytest in a fresh process with no plugin but ours, and gives its output's lines."""

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, "-c", LIGHT, "-p", "pytest_quantcheck.plugin", *arguments],
            cwd=pytester.path,
            env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout.splitlines()

    return run


def test_one_item_for_each_metric_candidate_and_prompt_set(gate, pytester):
    """Node ids name all three, candidate after candidate; what ten prompts are too few for comes last of its set."""
    pytester.makefile(".csv", other="prompt,gold\n" + "".join(f"is {n} even,True\n" for n in range(10)))
    found = gate(*LIST, "--quantcheck-prompts=builtin", "--quantcheck-prompts=other.csv")
    assert found.ids == [
        f"quantcheck::test_{metric}[{bits}-{prompts}]"
        for bits in ("int8", "nf4")
        for prompts in ("builtin", "other")
        for metric in (GATED if prompts == "builtin" else sorted(GATED, key=NEED_MANY.__contains__))
    ]
    assert "40 tests collected" in found.text


def test_no_model_is_loaded_to_look(alone):
    """Listing the suite ends well and imports neither torch nor transformers."""
    lines = alone("--quantcheck-model=builtin", "--quantcheck-only", "--quantcheck-controls", "-q", "--collect-only")
    assert lines[-2:] == ["status: 0", "heavy:"]


def test_dry_run_says_what_would_be_measured(gate):
    """Model, candidates, prompts, attribution, layers, metrics, profile and the report's place; no test is run."""
    asked = ("--quantcheck-model=builtin", "--quantcheck-only", "--quantcheck-dry-run", "--quantcheck-samples=50")
    found = gate(*asked, "--quantcheck-report=out")
    assert found.status == 0
    assert "dry run: nothing is loaded. The reference builtin would be measured (auto)" in found.lines
    assert "candidates: int8, nf4" in found.lines
    assert "prompts: 50 of builtin from builtin" in found.lines
    assert any(
        line.startswith("attribution: adaptive") and line.endswith("on 64 prompts; layers: paper")
        for line in found.lines
    )
    assert any(line.startswith("verdicts: accuracy_drop") and line.endswith("by default@2") for line in found.lines)
    assert "report: would be written into out" in found.lines
    assert "passed" not in found.text


def test_dry_run_says_what_a_prompt_set_is_too_small_for(gate):
    """With the number of prompts that the profile wants; other sets are not mentioned."""
    asked = ("--quantcheck-model=builtin", "--quantcheck-only", "--quantcheck-dry-run")
    found = gate(*asked, "--quantcheck-samples=300")
    assert "not gated on builtin, which has 300 prompts: accuracy_drop (from 512 prompts up)" in found.lines
    assert not any(line.startswith("not gated") for line in gate(*asked).lines)


def test_dry_run_starts_no_workers(gate):
    """There is nothing to hand out to xdist's workers, and it ends as well as without them."""
    quick = ("--quantcheck-attribution=off", "--quantcheck-layers=0,5")
    found = gate("--quantcheck-model=builtin", "--quantcheck-only", "--quantcheck-dry-run", *quick, "-n", "2")
    assert found.status == 0
    assert "attribution: off; layers: 0, 5" in found.lines
    assert "candidates: int8, nf4" in found.lines
    assert "2 workers" not in found.text


def test_dry_run_says_where_no_report_can_be_written(gate, pytester):
    """A run would go on without one, so that this is the time to see it."""
    pytester.path.joinpath("file").touch()
    found = gate("--quantcheck-model=builtin", "--quantcheck-dry-run", "--quantcheck-report=file/report")
    assert found.status == 0
    (line,) = (line for line in found.lines if line.startswith("report: "))
    assert line.endswith("file is not a directory that can be written; choose another one")


@pytest.mark.parametrize("name", ["report.json", "report.html"])
def test_dry_run_says_which_file_of_a_report_is_a_link(gate, pytester, name):
    """A run would leave what it leads to as it is, and write no such file."""
    (pytester.mkdir("report") / name).symlink_to(pytester.path / "elsewhere")
    found = gate("--quantcheck-model=builtin", "--quantcheck-dry-run", "--quantcheck-report=report")
    assert found.status == 0
    (line,) = (line for line in found.lines if line.startswith("report: "))
    assert line.startswith(
        f"report: cannot write report/{name}: expected a regular file or nothing there, found a link"
    )


def test_dry_run_runs_no_user_test(gate, pytester):
    """A user's tests are not run either."""
    pytester.makepyfile("def test_fails(): assert False")
    assert gate("--quantcheck-model=builtin", "--quantcheck-dry-run").status == 0


def test_users_tests_come_first_and_in_order(gate, user_tests):
    """Without --quantcheck-only both are collected."""
    found = gate(*LIST)
    assert found.ids[:3] == user_tests
    assert len(found.ids) == 3 + 20


def test_only_ignores_users_tests(gate, user_tests):
    """With --quantcheck-only the packaged suite is all there is, even when a path is given."""
    assert len(gate(*LIST, "--quantcheck-only", "test_a.py").ids) == 20


def test_keyword_selects(gate, user_tests):
    """-k selects by metric, candidate and prompt set."""
    found = gate(*LIST, "-k", "ace_drift and int8")
    assert found.ids == [ACE]
    assert "1/23 tests collected (22 deselected)" in found.text


def test_deselect_takes_an_item_away(gate):
    """--deselect takes node ids of the packaged suite."""
    found = gate(*LIST, "--quantcheck-only", "--deselect", ACE)
    assert len(found.ids) == 19
    assert ACE not in found.ids


@pytest.mark.parametrize(
    ("named", "count"),
    [(ACE, 1), (f"../up/{ACE}", 1), ("quantcheck::test_ace_drift", 2), ("quantcheck", 20), ("quantcheck::nothing", 0)],
)
def test_node_id_from_the_output_can_be_pasted(gate, user_tests, named, count):
    """A node id, a test without parameters and the whole suite; an unknown one ends pytest with exit status 4."""
    found = gate(*LIST, named)
    assert len(found.ids) == (count or 1)
    assert (found.status == pytest.ExitCode.USAGE_ERROR) == (count == 0)
    assert count or "not found: quantcheck::nothing (the packaged suite has 20 items" in found.text


def test_node_ids_of_both_kinds_can_be_named(gate, user_tests):
    """Users' tests and packaged tests, named together, are all that is run."""
    assert gate(*LIST, ACE, "test_z.py::test_three", ACE).ids == ["test_z.py::test_three", ACE]


def test_folder_called_quantcheck_is_a_folder(gate, pytester):
    """A user's folder of that name is collected as such, and the packaged suite beside it."""
    pytester.mkdir("quantcheck").joinpath("test_inside.py").write_text("def test_inside(): pass")
    assert gate(*LIST, "quantcheck").ids[0] == "quantcheck/test_inside.py::test_inside"


def test_attribution_off_leaves_its_metric_out(gate):
    """Without attributions there is no overlap to judge."""
    assert "salient_overlap" not in gate(*LIST, "--quantcheck-attribution=off").text


def test_outcomes_are_the_verdicts(whole_run):
    """int8 passes, nf4 fails on its correlations; the run's exit status says so."""
    failed = [line.split(" - ")[0] for line in whole_run.lines if line.startswith("FAILED quantcheck")]
    assert failed == ["FAILED quantcheck::test_redundancy_change[nf4-builtin]"]
    assert whole_run.status == pytest.ExitCode.TESTS_FAILED


def test_collected_items_are_counted(whole_run):
    """The line that says how many were collected counts both kinds: 4 metrics of 2 candidates, 9 of the user."""
    assert "collected 17 items" in whole_run.lines


def test_failure_is_a_sentence_with_facts(whole_run):
    """No traceback, but candidate, prompt set, layer, value with interval, limit, prompts, profile and version."""
    start = whole_run.lines.index("redundancy change of nf4 on builtin at layer 2 is above its limit")
    facts = whole_run.lines[start + 1 : start + 6]
    assert facts[0].startswith("  value      0.0")
    assert "95 % interval" in facts[0]
    assert "limit      at most 0.0100 (trial@3)" in facts[2]
    assert any("24 of builtin" in fact for fact in facts)


def test_comparison_is_carried_once_for_all_metrics(whole_run):
    """On the way from a test's report to the summary, each candidate's comparison goes with one of its tests."""
    carried = (whole_run.directory / "carried.txt").read_text().split()
    assert (carried.count("verdict"), carried.count("comparison")) == (8, 2)


def test_junit_names_and_properties(whole_run):
    """Each packaged test is a test case with its verdict as properties."""
    found = whole_run.junit
    assert set(found) == {
        f"test_{metric}[{bits}-builtin]"
        for metric in ("flip_rate", "kl_divergence", "salient_overlap", "redundancy_change")
        for bits in ("int8", "nf4")
    }
    facts = found["test_redundancy_change[nf4-builtin]"]
    assert float(facts["quantcheck_value"]) > float(facts["quantcheck_limit"]) == 0.01
    assert (facts["quantcheck_status"], facts["quantcheck_profile"]) == ("failed", "trial@3")
    assert (facts["quantcheck_layer"], facts["quantcheck_n_prompts"]) == ("2", "24")


@pytest.fixture
def ungated(gate, pytester):
    """The test cases of a run whose first metric is gated from more prompts than there are, in the file's order."""
    pytester.makefile(".toml", trial=UNGATED)
    options = ("samples=12", "bits=8", "layers=2", "attribution=off", "profile=trial.toml")
    found = gate("--quantcheck-model=builtin", *(f"--quantcheck-{one}" for one in options), "--junitxml=junit.xml")
    assert "1 passed, 1 skipped" in found.lines[-1]
    times = [float(case.get("time")) for case in ET.parse(found.directory / "junit.xml").iter("testcase")]
    return list(zip(found.junit, found.junit.values(), times, strict=True))


def test_junit_has_values_that_are_not_gated(ungated):
    """A skipped test has its estimate, interval and number of prompts, and why nothing was judged."""
    name, facts, _ = ungated[-1]
    assert (name, facts["quantcheck_status"]) == ("test_confidence_drift[int8-builtin]", "not gated")
    assert float(facts["quantcheck_low"]) <= float(facts["quantcheck_value"]) <= float(facts["quantcheck_high"])
    assert (facts["quantcheck_n_prompts"], facts["quantcheck_profile"]) == ("12", "trial@1")
    assert facts["quantcheck_reason"] == "trial@1 has no limit for confidence_drift in this case, 12 prompts"
    assert not facts.keys() & {"quantcheck_limit", "quantcheck_acceptable"}


def test_junit_books_measuring_on_a_judged_test(ungated):
    """The first test that is judged takes the time of measuring and says so; a skipped one takes none."""
    (judged, measuring, took), (_, skipped, waited) = ungated
    assert judged == "test_kl_divergence[int8-builtin]"
    assert 0 < float(measuring["quantcheck_measuring_seconds"]) <= took
    assert float(skipped["quantcheck_measuring_seconds"]) < float(measuring["quantcheck_measuring_seconds"])
    assert waited < took


def test_first_failure_stops_and_last_failed_runs_again(gate, whole_run, pytester):
    """-x ends the run at the first packaged test that fails; --lf then selects that one alone."""
    quick = ("--quantcheck-model=builtin", "--quantcheck-only", "--quantcheck-samples=12", "--quantcheck-bits=8")
    limits = ("--quantcheck-layers=2", "--quantcheck-fail=flip_rate:0.99", "--quantcheck-fail=redundancy_change:0")
    less = ("--quantcheck-attribution=off", "-k", "redundancy or flip_rate or delta")
    found = gate(*quick, *limits, *less, "-x", "-p", "no:randomly")
    assert "FAILED quantcheck::test_redundancy_change[int8-builtin]" in found.text
    assert "stopping after 1 failures" in found.text
    assert gate(*quick, *limits, "--lf", "--collect-only", "-q").ids == [
        "quantcheck::test_redundancy_change[int8-builtin]"
    ]
