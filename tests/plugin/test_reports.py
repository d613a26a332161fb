"""The table, `report.json` and the header, wherever the tests ran and whatever pytest is told to print."""

import json
import os
import sys

import pytest
from jsonschema import Draft202012Validator

from pytest_quantcheck.reporting import schema_text

QUICK = (
    "--quantcheck-model=builtin",
    "--quantcheck-samples=12",
    "--quantcheck-layers=2",
    "--quantcheck-bits=8",
    "--quantcheck-fail=kl_divergence:10",  # limits that int8 keeps, whatever the default profile says
    "--quantcheck-fail=redundancy_change:1",
)
TWO = ("quantcheck::test_kl_divergence", "quantcheck::test_redundancy_change", "--quantcheck-attribution=off")
INTERRUPTING = """
def pytest_runtest_setup(item):
    if "redundancy" in item.nodeid:
        raise KeyboardInterrupt
"""


def read_report(run, folder="report"):
    """The report of a run."""
    return json.loads((run.directory / folder / "report.json").read_bytes())


def count_tables(run):
    """How many summaries a run printed."""
    return sum(line.startswith("=") and " quantcheck: builtin " in line for line in run.lines)


def test_header_names_what_is_measured_with_what(whole_run):
    """Model, candidates, profile, prompts, device and versions."""
    first, second, third = (line for line in whole_run.lines if line.startswith("quantcheck: "))
    assert first == "quantcheck: builtin (auto) against int8, nf4; profile trial@3"
    assert second == "quantcheck: builtin (24 prompts); device auto, batch size 16"
    assert [word.split()[0] for word in third.removeprefix("quantcheck: ").split(", ")] == [
        "torch",
        "transformers",
        "bitsandbytes",
    ]


def test_table_is_printed_once(whole_run):
    """One summary with one table for each candidate, every metric in it, gated or not."""
    assert count_tables(whole_run) == 1
    for bits in ("int8", "nf4"):
        assert whole_run.lines.count(f"{bits} on builtin: 24 prompts") == 1
    assert sum(line.startswith("salient-neuron overlap") for line in whole_run.lines) == 2
    for title in ("ACE drift", "faint-neuron churn"):
        assert sum(line.startswith(title) and line.endswith("not gated") for line in whole_run.lines) == 2


def test_report_keeps_to_its_schema(whole_run):
    """`report.json` validates against the published schema and holds all verdicts and comparisons."""
    report = read_report(whole_run)
    Draft202012Validator(json.loads(schema_text())).validate(report)
    assert (report["outcome"], report["profile"]) == ("failed", "trial@3")
    assert len(report["verdicts"]) == 8
    assert [comparison["candidate"] for comparison in report["comparisons"]] == ["int8", "nf4"]
    assert "report: report/report.json" in whole_run.lines


def test_doubt_is_one_line_among_the_warnings(whole_run):
    """An inconclusive verdict that passes warns with a sentence; libraries' warnings are not the user's."""
    start = next(i for i, line in enumerate(whole_run.lines) if "warnings summary" in line)
    end = next(i for i, line in enumerate(whole_run.lines) if line.startswith("-- Docs"))
    said = [line.partition("Warning: ") for line in whole_run.lines[start:end] if "Warning: " in line]
    assert said
    assert {kind.rpartition(" ")[2] for kind, _, _ in said} == {"Quantcheck"}
    doubt = "24 prompts are too few to say whether flip rate of int8 on builtin is within its limit"
    assert f"{doubt}; it passes with a warning" in {text for _, _, text in said}
    assert not any(line.strip().startswith("meaning") for line in whole_run.lines[start:end])


def test_users_warning_points_at_the_users_line(whole_run):
    """A helper's warning is found where the user called it."""
    assert any("test_users.py:50: QuantcheckWarning" in line for line in whole_run.lines)


def test_quiet_run_prints_the_table_and_no_progress(gate):
    """-q --tb=no leaves the summary, once."""
    found = gate(*QUICK, *TWO, "-q", "--tb=no")
    assert (found.status, count_tables(found)) == (0, 1)
    assert "measuring" not in found.text
    assert "device" not in found.text


def test_without_a_terminal_the_report_is_written(gate):
    """With -p no:terminal the verdicts are in the report, and the exit status."""
    found = gate(*QUICK, *TWO, "-p", "no:terminal", "--quantcheck-report=deep/report")
    assert (found.status, found.text.strip()) == (0, "")
    assert read_report(found, "deep/report")["outcome"] == "partial"


@pytest.mark.slow  # test_workers.py has a run of everything
@pytest.mark.parametrize("named", [("test_user.py", TWO[0]), TWO[:2]], ids=["one", "both"])
def test_workers_verdicts_arrive_once(gate, pytester, named):
    """Under pytest-xdist the controller alone prints the table and writes the report, whichever worker measures."""
    pytester.makepyfile(test_user="def test_user(): pass")
    found = gate(*QUICK, *named, TWO[2], "-n", "2", "--quantcheck-report=report", "--junitxml=junit.xml")
    assert found.status == 0, found.text
    assert "2 passed" in found.lines[-1]
    assert count_tables(found) == 1
    assert found.lines.count("int8 on builtin: 12 prompts") == 1
    assert "measuring" not in found.text
    assert "warning" not in found.text, "the worker imported every library within the run, and none may complain"
    judged = sorted(f"quantcheck::test_{verdict['metric']}" for verdict in read_report(found)["verdicts"])
    assert judged == [name for name in named if name.startswith("quantcheck")]
    assert [facts["quantcheck_status"] for facts in found.junit.values()] == ["passed"] * len(judged)


def test_interrupted_run_leaves_no_report(gate, pytester):
    """Interrupted after the first verdict: the table says what is known, no file claims to be the whole."""
    pytester.makeconftest(INTERRUPTING)
    found = gate(*QUICK, *TWO, "--quantcheck-report=report", no_reraise_ctrlc=True)
    assert found.status == pytest.ExitCode.INTERRUPTED
    assert "no report: the run was cut short" in found.lines
    assert count_tables(found) == 1
    assert not (found.directory / "report").exists()


def test_report_of_a_run_that_stopped_early_has_not_passed(gate, pytester):
    """Where -x ends the run before the last verdict, all verdicts so far being good is not enough."""
    pytester.makeconftest("def pytest_collection_modifyitems(items): items.insert(1, items.pop(0))")
    pytester.makepyfile(test_user="def test_user(): assert False")
    found = gate(*QUICK, "test_user.py", *TWO, "-x", "--quantcheck-report=report")
    assert "1 failed, 1 passed" in found.text
    report = read_report(found)
    assert [verdict["status"] for verdict in report["verdicts"]] == ["passed"]
    assert report["outcome"] == "partial"


def test_report_of_a_candidate_that_cannot_be_loaded_has_not_passed(gate, checkpoint):
    """No verdict at all, and a report that says so in place of an old one."""
    (checkpoint / "model.safetensors").write_bytes(b"")
    report = gate(f"--quantcheck-model={checkpoint}", *QUICK[1:], *TWO, "--quantcheck-report=report")
    assert "1 failed" not in report.text
    assert "int8: could not be judged (2 tests without a verdict, 7 not run)" in report.lines
    found = read_report(report)
    assert (found["outcome"], found["verdicts"], [*found["causes"]]) == ("broken", [], ["int8"])
    assert all("model.safetensors is damaged" in cause for cause in found["causes"]["int8"])


@pytest.mark.parametrize("place", ["way", "way/deeper"])
def test_report_that_cannot_be_written_costs_no_verdict(place, gate, pytester):
    """A file is, or comes to be, where its directory should be: said once, with what to do, and the outcome stands."""
    pytester.makeconftest("def pytest_runtest_setup(item): open('way', 'w').close()")
    if "/" in place:
        pytester.path.joinpath("way").touch()
    found = gate(*QUICK, TWO[0], f"--quantcheck-report={place}")
    assert found.status == 0
    said = f"the report could not be written, the verdicts stand: cannot write {place}/report.json: "
    assert found.sentences.count(said) == 1
    assert found.sentences.count("found a regular file; it was left as it is: remove it or choose another place") == 1


def test_report_behind_a_link_costs_no_verdict(gate, pytester, monkeypatch):
    """What the link leads to stays as it was, a pipe for GitHub's page keeps no run waiting, and the outcome stands."""
    mine = pytester.path / "mine"
    mine.write_text("mine")
    (pytester.mkdir("report") / "report.json").symlink_to(mine)
    os.mkfifo("pipe")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "pipe")
    found = gate(*QUICK, TWO[0], "--quantcheck-report=report")
    assert found.status == 0
    said = "the verdicts stand: cannot write {}: expected a regular file or nothing there, found a {}"
    assert found.sentences.count(said.format("report/report.json", f"link to {mine}, outside ")) == 1
    assert found.sentences.count(said.format("pipe", "named pipe; ")) == 1
    assert mine.read_text() == "mine"


def test_quietest_run_has_outcomes_alone(gate):
    """-qq --tb=no leaves what stands against each candidate, without a table."""
    found = gate(*QUICK[:-1], *TWO, "-qq", "--tb=no", "--quantcheck-fail=redundancy_change:0.0001")
    assert "int8: not fit for release (1 failed, 1 passed, 7 not run)" in found.lines
    assert not any(line.startswith("metric ") for line in found.lines)


def test_summary_keeps_to_a_narrow_terminal(gate, monkeypatch):
    """Where there are 50 columns, no line of the summary has more."""
    monkeypatch.setenv("COLUMNS", "50")
    found = gate(*QUICK, *TWO, "--tb=no")
    start = next(i for i, line in enumerate(found.lines) if line.startswith("=") and " quantcheck: builtin " in line)
    assert max(map(len, found.lines[start:])) <= 50
    assert any(line.startswith("  KL divergence: passed, ") for line in found.lines)


def test_step_summary_is_appended_also_without_a_terminal(gate, pytester, monkeypatch):
    """Whoever looks at the job's page sees the outcome and the table once, below what stood there."""
    page = pytester.path / "summary.md"
    page.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    found = gate(*QUICK, *TWO, "-p", "no:terminal")
    lines = page.read_text(encoding="utf-8").splitlines()
    assert (found.status, lines[0]) == (0, "before")
    assert lines.count("✅ **int8: met every limit that was tested (2 passed, 7 not run)**") == 1
    assert lines.count("### int8 on builtin: 12 prompts") == 1


def test_step_summary_that_cannot_be_written_costs_no_verdict(gate, monkeypatch):
    """It is said once, and the outcome stands."""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "missing/summary.md")
    found = gate(*QUICK, TWO[0], TWO[2])
    assert found.status == 0
    assert sum(line.startswith("no step summary, the verdicts stand: ") for line in found.lines) == 1


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["cp437", "cp1252", "ascii"])
def test_any_code_page_can_print_the_summary(encoding, pytester, monkeypatch):
    """What a Windows terminal's code page lacks is written as an escape."""
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    text = "\n".join(f'{{"prompt": "{i} 問", "gold": "True"}}' for i in range(12))
    (pytester.path / "größe問題.jsonl").write_text(text, encoding="utf-8")
    prompts = "--quantcheck-prompts=größe問題.jsonl"
    found = pytester.run(sys.executable, "-m", "pytest", *QUICK, *TWO, prompts, "--quantcheck-report=größe問題")
    assert found.ret in (0, 1)
    shown = (pytester.path / "stdout").read_bytes().decode(encoding)
    assert "int8 on gr\\xf6\\xdfe\\u554f\\u984c: 12 prompts" in shown
    assert "INTERNALERROR" not in shown
    assert "UnicodeEncodeError" not in shown
