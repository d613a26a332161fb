"""What type checkers see of the package is what there is."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_quantcheck
from tests.docs import reference

USERS = """
from pytest_quantcheck import Gate, assert_ace_drift, assert_metric, judge

def test_int8(quantcheck: Gate) -> None:
    verdict = assert_ace_drift(quantcheck.compare("int8"), limit=0.1)
    reveal_type(verdict)
    assert_ace_drift(quantcheck.compare("int8"), limit="0.1")
    assert verdict.mertic
    judge(quantcheck.compare("int8"), "ace_drfit", quantcheck.profile)
    assert_metric(quantcheck.compare("int8"), "ace_drfit")
    quantcheck.judge("ace_drfit", "int8")
    quantcheck.compare("int8").of("ace_drfit")
    for metric in quantcheck.metrics:
        assert judge(quantcheck.compare("int8"), metric, quantcheck.profile)
    for estimate in quantcheck.compare("int8").estimates:
        assert quantcheck.judge(estimate.metric, "int8")

from pytest_quantcheck import assert_ace_drfit
"""


def test_type_checkers_see_every_public_name():
    """The stub has the names that the tables have: `python -m tests.docs.reference` writes it."""
    assert reference.STUB.read_text(encoding="utf-8") == reference.stub()


def test_type_checkers_see_every_metric():
    """The names that they know are those of `METRICS`."""
    assert reference.METRIC_NAMES.read_text(encoding="utf-8") == reference.metric_names()


def test_stub_names_are_there():
    """Each name of the stub resolves to an object of that name, with the arguments that the stub promises."""
    tree = ast.parse(reference.STUB.read_text(encoding="utf-8"))
    imported = {alias.asname for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names} - {None}
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert imported | functions.keys() == set(pytest_quantcheck.__all__)
    assert all(getattr(pytest_quantcheck, name).__name__ == name for name in pytest_quantcheck.__all__)
    for name, node in functions.items():
        arguments = [argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)]
        assert list(inspect.signature(getattr(pytest_quantcheck, name)).parameters) == arguments


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
    assert all("incompatible type \"Literal['ace_drfit']\"" in line for line in found[3:7])
    assert 'has no attribute "assert_ace_drfit"' in found[7]
    assert len(found) == 8
