"""What people see on a real terminal, at any width, with and without colour."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading

import pytest

from pytest_quantcheck.reporting import WIDEST

ASKED = (
    "--quantcheck-model=builtin",
    "--quantcheck-only",
    "--quantcheck-samples=12",
    "--quantcheck-layers=0,2",
    "--quantcheck-bits=8",
    "--quantcheck-attribution=off",
    "--quantcheck-fail=redundancy_change:0.0001",
)
COLOURS = ("NO_COLOR", "FORCE_COLOR", "PY_COLORS", "CI", "BUILD_NUMBER")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Measurements that all runs share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def shown(cache, tmp_path):
    """Runs a gate on a terminal so many columns wide; gives what was written to it."""

    def run(columns, *arguments, **environment):
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        clean = {name: value for name, value in os.environ.items() if name not in (*COLOURS, "COLUMNS", "TERM")}
        command = [sys.executable, "-m", "pytest", *ASKED, f"--quantcheck-cache={cache}", *arguments]
        written = bytearray()
        reader = threading.Thread(target=_read, args=(ours, written))
        reader.start()
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=clean | {"TERM": "xterm"} | environment,
            stdout=theirs,
            stderr=theirs,
            check=False,
        )
        os.close(theirs)
        reader.join()
        os.close(ours)
        assert done.returncode == pytest.ExitCode.TESTS_FAILED, written.decode()
        return written.decode().replace("\r\n", "\n")

    return run


def _read(descriptor, written):
    """Take what comes, until the other end is closed."""
    try:
        while part := os.read(descriptor, 1 << 16):
            written.extend(part)
    except OSError:  # how Linux says that it is
        pass


def summary(text):
    """The lines of our own summary, without colours."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
    start = next(i for i, line in enumerate(lines) if " quantcheck: builtin " in line)
    end = next(i for i, line in enumerate(lines) if " short test summary info " in line)
    return lines[start:end]


@pytest.mark.parametrize(("columns", "widest"), [(40, 40), (80, 80), (200, WIDEST)])
def test_summary_fits_and_says_first_what_failed(columns, widest, shown):
    """The outcome in red above all, no line longer than there is room but an option to be copied; a list in need."""
    text = shown(columns, "-v", "--tb=no")
    rule, *lines = summary(text)
    assert len(rule) <= columns
    assert {line.strip() for line in lines if len(line) > widest} <= {"--quantcheck-fail=redundancy_change:LIMIT"}
    outcome, _, objection = " ".join(lines).partition(" - ")
    assert re.fullmatch(r"int8: not fit for release \(1 failed, .*, 2 not gated\)", outcome)
    assert objection.startswith("redundancy change of int8")
    assert "\x1b[31mint8: not fit" in text
    assert any("redundancy change at layer 0: " in line for line in lines) == (columns == 40)


def test_progress_is_one_line_that_is_taken_away(shown):
    """Narrower than what it says, it is cut and does not wrap: else it could not be rewritten."""
    text = shown(40, "--quantcheck-seed=1", "--tb=no")  # which the cache does not have
    told = [part for part in text.split("\r") if re.search(r"loading|\d/12 prompts", part)]
    assert len(told) >= 4
    assert max(map(len, told)) < 40
    assert all(after.isspace() for after in re.findall(r"12/12 prompts *\r([^\r]*)\r", text))


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False), ({"TERM": "dumb", "FORCE_COLOR": "1"}, True)],
    ids=["no-color", "dumb", "forced"],
)
def test_colour_is_where_pytest_has_it(environment, coloured, shown):
    """No escape reaches a terminal that has none of pytest's; the words are the same."""
    text = shown(80, "-q", "--tb=line", **environment)
    assert ("\x1b[31mint8: not fit" in text) == ("\x1b[" in text) == coloured
    assert summary(text)[1].startswith("int8: not fit for release (1 failed, ")


def test_failure_in_a_line_is_one_sentence(shown):
    """With --tb=line the facts are left to the summary."""
    text = shown(80, "-q", "--tb=line")
    failures = text.partition(" FAILURES ")[2].partition(" quantcheck: ")[0]
    assert "redundancy change of int8 on builtin at layer 2 is above its limit\n" in failures
    assert "meaning" not in failures
