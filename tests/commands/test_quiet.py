"""What libraries draw, print and log while they load a candidate reaches nobody."""

import subprocess
import sys

import pytest

from pytest_quantcheck.models import builtin
from tests.models.gguf_files import spell_builtin, write_gguf
from tests.models.releases import RELEASES, needs, write

from .conftest import QUICK

QUIETENED = ("torchao-weight", "W8A8")


def measured_elsewhere(*arguments):
    """What `measure` prints to stdout and stderr in a process that imports every library anew."""
    command = [sys.executable, "-m", "pytest_quantcheck", "measure", *map(str, arguments), *QUICK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


@pytest.mark.ci
def test_gguf_file_is_read_in_silence(tmp_path):
    """There is a bar for it in transformers that its own switch does not stop."""
    file = write_gguf(spell_builtin(tmp_path / "spelled"), tmp_path / "small.gguf", "Q8_0")
    out, err = measured_elsewhere("--model", file, "--out", tmp_path / "out")
    assert (len(out), err) == (2, "")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the formats' libraries warn of their own future when they write
@pytest.mark.parametrize("name", [needs(name) for name in QUIETENED])
def test_released_checkpoint_is_read_in_silence(name, stored, tmp_path):
    """It is torchao that logs the kernels that this machine lacks, and compressed-tensors draws a bar."""
    write(RELEASES[name], builtin.DIRECTORY, tmp_path / "released")
    reference = stored / "reference"
    out, err = measured_elsewhere(
        "--candidate", tmp_path / "released", "--reference", reference, "--out", tmp_path / "o"
    )
    assert (len(out), err) == (2, "")
