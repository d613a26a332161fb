"""SIGTERM ends a run in one line, at whatever moment it comes: what is finished is kept, and nothing contradicts it."""

import json
import os
import signal
import subprocess
import sys
import time
from unittest import mock

import pytest

WAITING = """
import pathlib
import time
from pytest_quantcheck.storage import Entry

save = Entry.save

def wait(self, measurement):
    save(self, measurement)
    pathlib.Path("saved").touch()
    time.sleep(600)

Entry.save = wait
"""
SIGNALLING = """
import atexit
import os
import signal

def reach(moment):
    if moment == {moment!r} and "PYTEST_XDIST_WORKER" not in os.environ:
        open("reached", "w").close()
        for _ in range({times}):
            os.kill(os.getpid(), signal.SIGTERM)

reach("import")

def pytest_configure(config): reach("configure")
def pytest_sessionstart(session): reach("sessionstart")
def pytest_collection(session): reach("collection")
def pytest_runtest_call(item): reach("call")
def pytest_runtest_logreport(report): reach("logreport")
def pytest_sessionfinish(session): reach("sessionfinish")
def pytest_terminal_summary(terminalreporter): reach("terminal_summary")

def pytest_unconfigure(config):
    reach("unconfigure")
    atexit.register(reach, "exit")
"""
"""A user's conftest.py that signals its own process at one moment."""

ENDED, FINISHED = "quantcheck: ended by SIGTERM", "quantcheck: SIGTERM came after the last test; the run is finished"
STARTING, RUNNING = ("import", "configure"), ("sessionstart", "collection", "call", "logreport")
FINISHING = ("sessionfinish", "terminal_summary", "unconfigure")
USERS = ("--quantcheck-model=builtin", "-m", "not quantcheck", "test_users.py")
QUICK = (
    "--quantcheck-only",
    "--quantcheck-bits=8",
    "--quantcheck-samples=12",
    "--quantcheck-attribution=off",
    "--quantcheck-continuation=0",
)


@pytest.fixture(autouse=True)
def _no_worker(monkeypatch):
    """These runs are nobody's workers, also where the tests themselves run in one."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)


@pytest.fixture
def signalled(pytester):
    """Makes a folder with one test, in which SIGTERM comes at a moment, and runs pytest there in a process or in this.

    In this process only behind a handler, so that a test that fails does not end the whole run.
    """

    def run(moment, *arguments, times=1, here=False):
        kill = SIGNALLING.format(moment=moment, times=times)
        guard = "assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL\n        "
        pytester.makeconftest(kill.replace("for _", f"{guard}for _") if here else kill)
        pytester.makepyfile(test_users="def test_users(): pass")
        start = pytester.runpytest_inprocess if here else pytester.runpytest_subprocess
        result = start(*(arguments or USERS))
        assert (pytester.path / "reached").exists()
        output = "\n".join((*result.outlines, *result.errlines))
        assert "Traceback" not in output
        assert "INTERNALERROR" not in output
        return int(result.ret), output

    return run


def said(output):
    """The lines about SIGTERM, without pytest's frame."""
    return [line.strip("! ").removeprefix("Terminated: ") for line in output.splitlines() if "SIGTERM" in line]


@pytest.mark.parametrize("moment", STARTING)
def test_before_pytest_has_begun(signalled, moment):
    """The process ends at once, as SIGTERM ends one."""
    status, output = signalled(moment)
    assert (status, said(output)) == (-signal.SIGTERM, [ENDED])


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("moment", RUNNING)
def test_while_pytest_runs(signalled, moment, times):
    """An interruption; the second signal is that of `timeout`, which sends two."""
    status, output = signalled(moment, times=times, here=True)
    assert (status, said(output)) == (pytest.ExitCode.INTERRUPTED, [ENDED])
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("moment", FINISHING)
def test_after_the_last_test(signalled, capfd, moment):
    """The run goes on to its end, with its own status."""
    status, output = signalled(moment, times=2, here=True)
    assert status == pytest.ExitCode.OK
    assert "1 passed" in output
    assert said(capfd.readouterr().err + output) == [FINISHED]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.ci
def test_while_the_interpreter_ends(signalled):
    """The status stays that of the run, also when pytest is done."""
    status, output = signalled("exit")
    assert (status, said(output)) == (pytest.ExitCode.OK, [])


@pytest.mark.parametrize("moment", ["call", "sessionfinish"])
def test_report_and_status_agree(signalled, pytester, moment):
    """Either there is a whole report and its status, or an interruption and no report."""
    arguments = ("--quantcheck-model=builtin", *QUICK, "--quantcheck-report=report", "-k", "flip_rate")
    status, output = signalled(moment, *arguments, here=True)
    report = pytester.path / "report" / "report.json"
    if moment == "call":
        assert status == pytest.ExitCode.INTERRUPTED
        assert not report.exists()
    else:
        assert status == {"partial": 0, "failed": 1}[json.loads(report.read_text())["outcome"]]
        assert "report: report" in output


def test_model_in_the_ini_file(signalled, pytester):
    """The first that is known of such a run is its ini file."""
    pytester.makeini("[pytest]\nquantcheck_model = builtin")
    status, output = signalled("import", "test_users.py")
    assert (status, said(output)) == (-signal.SIGTERM, [ENDED])


@pytest.mark.parametrize("moment", ["import", "sessionfinish"])
def test_run_without_a_gate_is_left_alone(signalled, moment):
    """It ends as it would without the plugin."""
    assert signalled(moment, "test_users.py") == (-signal.SIGTERM, mock.ANY)


def test_handler_of_another_program_stays(signalled, pytester):
    """It alone says what happens."""
    came = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        status, output = signalled("call", here=True)
    finally:
        assert signal.signal(signal.SIGTERM, before) is not signal.SIG_DFL
    assert (status, came, said(output)) == (pytest.ExitCode.OK, [signal.SIGTERM], [])


def test_interruption_that_was_swallowed_comes_again(pytester):
    """Some libraries ignore every exception; the run ends before the next test."""
    swallow = "import contextlib, os, signal\n\ndef test_one():\n    with contextlib.suppress(BaseException):\n"
    pytester.makepyfile(
        test_users=f"{swallow}        os.kill(os.getpid(), signal.SIGTERM)\n\ndef test_two():\n    assert False\n"
    )
    result = pytester.runpytest_inprocess(*USERS)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert said(result.stdout.str()) == [ENDED]
    result.assert_outcomes(passed=1)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["logreport", "unconfigure"])
def test_controller_of_xdist(signalled, moment):
    """As without xdist; its workers end with it."""
    status, output = signalled(moment, *USERS, "-n", "1")
    expected = {"logreport": (pytest.ExitCode.INTERRUPTED, [ENDED]), "unconfigure": (pytest.ExitCode.OK, [FINISHED])}
    assert (status, said(output)) == expected[moment]


@pytest.mark.ci
def test_finished_measurement_outlives_the_signal(pytester):
    """Exit status 2, one line that says so, and the reference's measurement in the cache."""
    pytester.makepyfile(waiting=WAITING)
    cache = pytester.path / "cache"
    command = [sys.executable, "-m", "pytest", "--quantcheck-model=builtin", *QUICK, f"--quantcheck-cache={cache}"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(pytester.path), os.environ.get("PYTHONPATH", "")))}
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen([*command, "-p", "waiting"], env=environment, cwd=pytester.path, **pipe) as run:
        while not (pytester.path / "saved").exists():
            assert run.poll() is None
            time.sleep(0.05)
        run.send_signal(signal.SIGTERM)
        output, _ = run.communicate(timeout=500)
    assert run.returncode == pytest.ExitCode.INTERRUPTED
    assert said(output) == [ENDED]
    assert len(list(cache.glob("*/measurement*"))) == 1
