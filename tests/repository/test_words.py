"""The project speaks to its readers: no file names a folder of the machine it was written on."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Written as alternatives, so that this file does not contain what it looks for.
MACHINE_PATH = re.compile(rb"(?<![\w.~])/(?:work|root|home/\w+|Users/\w+|tmp/lab)/")


def project_files() -> list[Path]:
    """Return every file that git tracks or would add."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout: which files belong to the project is not known")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def machine_paths(content: bytes) -> list[str]:
    """Return the lines that name a folder of one machine."""
    lines = enumerate(content.splitlines(), start=1)
    return [f"{number}: {line.decode(errors='replace').strip()}" for number, line in lines if MACHINE_PATH.search(line)]


def test_no_file_names_a_machine_path():
    """No tracked text says where its author's files lay."""
    files = [path for path in project_files() if path.suffix != ".safetensors"]
    found = [f"{path.relative_to(ROOT)}:{line}" for path in files for line in machine_paths(path.read_bytes())]
    assert files
    assert not found, "\n".join(found)


@pytest.mark.parametrize("folder", ["work", "root", "home/someone", "Users/someone"])
def test_machine_path_is_seen(folder):
    """A path of one machine is found, with its line."""
    assert machine_paths(f"fine\nread /{folder}/data.csv".encode()) == [f"2: read /{folder}/data.csv"]


def test_address_is_no_machine_path():
    """A web address or a relative path with such a folder in it is not a path of a machine."""
    assert machine_paths(b"https://example.org/work/page and ./root/x and docs/work/y") == []
