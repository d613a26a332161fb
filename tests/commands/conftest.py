"""Measurements of the built-in model on a few prompts, made by the command itself, once."""

import shutil
import signal
from pathlib import Path

import pytest

from pytest_quantcheck.commands import main

QUICK = ("--samples", "16", "--layers", "2", "--attribution", "off", "--continuation", "0")


@pytest.fixture(scope="session")
def stored(tmp_path_factory):
    """A directory with the stored reference in `reference` and a stored candidate in `int8`; not to be changed."""
    folder = tmp_path_factory.mktemp("stored")
    reference, candidate = str(folder / "reference"), str(folder / "int8")
    assert main(["measure", "--model", "builtin", "--out", reference, *QUICK]) == 0
    against = ("--reference", reference, "--bits", "int8")
    assert main(["measure", "--model", "builtin", "--out", candidate, *against, *QUICK]) == 0
    return folder


@pytest.fixture
def copied(stored, tmp_path):
    """A copy of the stored measurements, to be changed."""
    return Path(shutil.copytree(stored, tmp_path / "copied"))


@pytest.fixture
def refused(capsys):
    """Runs a command that must end with 2, nothing on stdout and one sentence on stderr; gives the sentence."""

    def run(*arguments):
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        return err.rstrip("\n")

    return run


@pytest.fixture
def interruptible():
    """Ctrl-C interrupts, also where the tests run in the background of a shell, which has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
