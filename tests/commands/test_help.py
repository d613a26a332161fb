"""`python -m pytest_quantcheck --help` and its kind: there at once, and complete."""

import subprocess
import sys

import pytest

from pytest_quantcheck.commands import main
from pytest_quantcheck.commands.options import COMPARE, DEQUANTIZE, MEASURE, MERGE, spelled
from pytest_quantcheck.options import OPTIONS


def helped(capsys, *arguments):
    """What `--help` prints, its blanks as one."""
    with pytest.raises(SystemExit, match="0"):
        main([*arguments, "--help"])
    return " ".join(capsys.readouterr().out.split())


def test_every_command_is_listed(capsys):
    """With what it is for."""
    text = helped(capsys)
    assert "measure measure a model and" in text
    assert "compare judge a stored" in text
    assert "merge merge shards that were measured" in text
    assert "dequantize write a GGUF file as a plain checkpoint" in text
    assert "profiles look at threshold profiles" in text
    assert "doctor say what this environment offers" in text


@pytest.mark.parametrize(
    ("command", "options"), [("measure", MEASURE), ("compare", COMPARE), ("merge", MERGE), ("dequantize", DEQUANTIZE)]
)
def test_every_option_is_explained(capsys, command, options):
    """With pytest's words; that ini files play no part is said."""
    text = helped(capsys, command)
    assert "Ini files play no part" in text
    for option in options:
        assert f"--{option.name}" in text
        assert spelled(option.help) in text


def test_options_of_both_mean_the_same():
    """Of every option that pytest has too, the reader is the table's own."""
    table = {option.name: option for option in OPTIONS}
    shared = [option for option in (*MEASURE, *COMPARE, *MERGE, *DEQUANTIZE) if option.name in table]
    assert len(shared) > 20
    for option in shared:
        assert option.parse is table[option.name].parse


@pytest.mark.parametrize("arguments", [[], ["measure"], ["compare"], ["dequantize"]])
def test_help_loads_no_library(arguments):
    """A fresh process that only helps imports nothing heavy, and not pytest either."""
    code = f"""
import runpy, sys
sys.argv = ["pytest_quantcheck", *{arguments}, "--help"]
try:
    runpy.run_module("pytest_quantcheck", run_name="__main__", alter_sys=True)
except SystemExit as end:
    heavy = ("torch", "transformers", "numpy", "scipy", "msgspec", "safetensors", "pytest")
    print(end.code, [name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "0 []"
    assert done.stdout.startswith("usage: python -m pytest_quantcheck")


@pytest.mark.ci
def test_a_measurement_that_fails_ends_a_process_with_2(tmp_path):
    """One sentence on stderr, no traceback."""
    command = [sys.executable, "-m", "pytest_quantcheck", "measure", "--model", str(tmp_path), "--out", "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert f"{tmp_path}: expected a checkpoint, found no config.json" in done.stderr
