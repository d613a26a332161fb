"""What type checkers see of the package is what there is."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_quantcheck

USERS = """
from pytest_quantcheck import Gate, assert_ace_drift

def test_int8(quantcheck: Gate) -> None:
    verdict = assert_ace_drift(quantcheck.compare("int8"), limit=0.1)
    reveal_type(verdict)
    assert_ace_drift(quantcheck.compare("int8"), limit="0.1")
    assert verdict.mertic

from pytest_quantcheck import assert_ace_drfit
"""


def test_type_checkers_see_every_public_name():
    """The imports for them are those that the table resolves, each from the same module."""
    tree = ast.parse(Path(pytest_quantcheck.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and isinstance(node.body[0], ast.ImportFrom))
    seen = {alias.asname: node.module.removeprefix("pytest_quantcheck.") for node in block.body for alias in node.names}
    assert seen == pytest_quantcheck._HOMES


@pytest.mark.slow
def test_a_users_mistakes_are_found(tmp_path):
    """A type checker knows what a helper returns and takes, and which names there are."""
    pytest.importorskip("mypy")
    (tmp_path / "test_users.py").write_text(USERS)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path), "test_users.py"]
    path = str(Path(pytest_quantcheck.__file__).parents[1])
    done = subprocess.run(command, cwd=tmp_path, env={"MYPYPATH": path}, capture_output=True, text=True, check=False)
    found = [line.partition(": ")[2] for line in done.stdout.splitlines() if "test_users.py:" in line]
    assert found[0] == 'note: Revealed type is "pytest_quantcheck.records.Verdict"'
    assert 'incompatible type "str"' in found[1]
    assert '"Verdict" has no attribute "mertic"' in found[2]
    assert 'has no attribute "assert_ace_drfit"' in found[3]
