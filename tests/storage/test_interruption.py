"""A process killed while it saves leaves the older measurement or the newer one, whole."""

import signal
import subprocess
import sys
from itertools import count

import pytest

from pytest_quantcheck.errors import StorageError
from pytest_quantcheck.storage import load_measurement, save_measurement
from pytest_quantcheck.storage.measurement_files import FILE

SAVE = """
import os, resource, signal, sys
from pathlib import Path
from pytest_quantcheck.storage import load_measurement, save_measurement

source, target, kind, limit = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
measurement, steps = load_measurement(source), 0

def kill(event, arguments):
    global steps
    if event == "open" or (event.startswith(("os.", "shutil.", "ctypes.")) and event != "os.kill"):
        steps += 1
        if steps > limit:
            os.kill(os.getpid(), signal.SIGKILL)

if kind == "steps":
    sys.addaudithook(kill)
else:
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
save_measurement(measurement, target)
"""
"""Saves until the system has taken so many steps (opened, made, renamed, removed, ...), or written so many bytes of
a file, and is killed there."""


def save_and_die(source, target, kind, limit):
    """Return the exit status of a process that saves again what is in `source`."""
    command = [sys.executable, "-c", SAVE, str(source), str(target), kind, str(limit)]
    return subprocess.run(command, check=False, timeout=60).returncode


@pytest.fixture
def source(newer, tmp_path):
    """Where the measurement lies that is to be saved."""
    save_measurement(newer, tmp_path / "source")
    return tmp_path / "source"


def test_kill_while_replacing_leaves_one_of_both(measurement, newer, same, source, tmp_path):
    """Killed before any step of the system, saving has left the old measurement or the new one, never none."""
    outcomes, target = [], tmp_path / "target"
    for steps in count():
        save_measurement(measurement, target)
        status = save_and_die(source, target, "steps", steps)
        found = load_measurement(target)
        outcomes.append("new" if same(newer, found) else "old" if same(measurement, found) else "neither")
        if status == 0:
            break
        assert status == -signal.SIGKILL
    change = outcomes.index("new")
    assert 1 < change < len(outcomes) - 1, "expected kills both before and after the rename"
    assert outcomes == ["old"] * change + ["new"] * (len(outcomes) - change)


def test_kill_while_writing_the_first_leaves_nothing_or_all(newer, same, source, tmp_path):
    """Where there was no measurement, there is none or a whole one."""
    for steps in count():
        target = tmp_path / f"target{steps}"
        status = save_and_die(source, target, "steps", steps)
        if (target / FILE).exists():
            assert same(newer, load_measurement(target))
        else:
            with pytest.raises(StorageError, match="does not exist"):
                load_measurement(target)
        if status == 0:
            break
        assert status == -signal.SIGKILL
    assert steps > 3
    assert (target / FILE).exists()


@pytest.mark.parametrize("size", [1, 5000])
def test_kill_within_a_file_leaves_the_old(measurement, same, source, tmp_path, size):
    """Killed with a file half written, saving has left the old measurement."""
    save_measurement(measurement, tmp_path / "target")
    assert save_and_die(source, tmp_path / "target", "bytes", size) == -signal.SIGXFSZ
    assert same(measurement, load_measurement(tmp_path / "target"))
