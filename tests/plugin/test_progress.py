"""Progress lines stand where somebody may read them, and disturb nothing."""

from contextlib import nullcontext

import pytest
from filelock import FileLock

from pytest_quantcheck.measuring import NoProgress
from pytest_quantcheck.run.gate import Gate
from tests.gates import settings

QUICK = (
    "--quantcheck-model=builtin",
    "--quantcheck-samples=12",
    "--quantcheck-layers=2",
    "--quantcheck-bits=8",
    "--quantcheck-continuation=0",
)
ONE = ("quantcheck::test_kl_divergence", "--quantcheck-attribution=off")
PRINTING = """
def test_prints(quantcheck, {capture}):
    print("before")
    {measure}
    print("after")
    assert {capture}.readouterr().out.splitlines() == ["before", "after"]
"""
ANNOUNCING = """
    with quantcheck._progress("int8 on builtin") as progress:
        progress.start("measuring", 12)
        progress.finish()
"""


@pytest.fixture
def often(monkeypatch):
    """Where nobody watches there is a line for every step, however short."""
    monkeypatch.setattr("pytest_quantcheck.reporting.progress_line.REPEAT", 0.0)


@pytest.fixture
def often_elsewhere(pytester, often):
    """The same in other processes that the test starts."""
    pytester.makeconftest("from pytest_quantcheck.reporting import progress_line\nprogress_line.REPEAT = 0.0")


@pytest.mark.usefixtures("often")
def test_lines_where_nobody_watches(gate):
    """Off a terminal each phase of each model has whole lines: which model, which prompts, how many, how long."""
    found = gate(*QUICK, "quantcheck::test_kl_divergence", "--quantcheck-attribution-samples=5", "--color=yes")
    told = [line for line in found.lines if " prompts in " in line]
    assert [line.split(":")[0] for line in told] == [
        f"{model} on builtin, {phase}" for model in ("reference", "int8") for phase in ("measuring", "attributing")
    ]
    assert told[0].startswith("reference on builtin, measuring: 12 prompts in ")
    assert not any("\r" in line for line in told)


def test_short_work_has_no_lines(whole_run):
    """What takes seconds is not talked about in a log."""
    assert "measuring" not in whole_run.text
    assert "loading" not in whole_run.text


@pytest.mark.usefixtures("often")
def test_without_capture_nothing_is_disturbed(gate, pytester):
    """With -s a user's test reads what it printed and nothing of ours."""
    pytester.makepyfile(test_user=PRINTING.format(capture="capsys", measure="quantcheck.compare('int8')"))
    found = gate(*QUICK, "--quantcheck-attribution=off", "test_user.py", "-s", "-k", "test_prints")
    assert "1 passed" in found.lines[-1]
    assert sum("measuring: 12 prompts" in line for line in found.lines) == 2


@pytest.mark.ci
@pytest.mark.usefixtures("often_elsewhere")
def test_line_gets_past_captured_file_descriptors(pytester):
    """In a process of its own, where pytest captures descriptors, the line is seen and the test does not read it."""
    pytester.makepyfile(test_user=PRINTING.format(capture="capfd", measure=ANNOUNCING.strip()))
    found = pytester.runpytest_subprocess(*QUICK, "--capture=fd", "test_user.py", "-k", "test_prints")
    assert "1 passed" in found.outlines[-1]
    assert found.outlines.count("int8 on builtin, measuring: 0 prompts in less than 1 s") == 1


@pytest.mark.usefixtures("often")
def test_quiet_means_quiet(gate):
    """With -q there is no progress line."""
    assert "measuring" not in gate(*QUICK, *ONE, "-q").text


@pytest.mark.slow
@pytest.mark.usefixtures("often_elsewhere")
def test_quiet_workers_are_quiet(gate):
    """Under xdist, too, there is no progress line with -q; `test_workers.py` has what is heard without."""
    found = gate(*QUICK, "--quantcheck-only", "--quantcheck-attribution=off", "-n2", "-q")
    assert " prompts in " not in found.text
    assert "waiting" not in found.text


def test_one_that_waits_says_so(tmp_path):
    """A measurement that another process is making is waited for, and that is said once for each prompt set."""
    said = []

    class Told(NoProgress):
        def say(self, what, *, log=False):
            said.append((what, log))
            if "waiting" in what:
                other.release()

    gate = Gate(settings(cache=str(tmp_path)), lambda _label: nullcontext(Told()))
    entry = gate._measurements._entries(gate.targets.reference, {})["builtin"]
    other = FileLock(entry.directory.with_suffix(".lock"))
    other.acquire()
    gate.measure()
    assert said == [("waiting for another process that measures it", True), ("loading", False)]
