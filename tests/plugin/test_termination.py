"""A job that is stopped by SIGTERM ends as by Ctrl-C: what is finished is kept."""

import os
import signal
import subprocess
import sys
import time

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
QUICK = ("--quantcheck-only", "--quantcheck-bits=8", "--quantcheck-samples=12", "--quantcheck-attribution=off")


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
    assert "KeyboardInterrupt" in output
    assert len(list(cache.glob("*/measurement*"))) == 1
