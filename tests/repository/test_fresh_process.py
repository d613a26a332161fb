"""A pytest run that does not ask for the gate pays nothing for it; only a fresh process can show that."""

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

HEAVY = ("torch", "transformers", "bitsandbytes", "numpy", "scipy", "msgspec", "safetensors", "gguf")

# Other people's plugins may import what they like: only ours is loaded.
ALONE = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}

REPORT = f"""
import sys
print("heavy:", *(name for name in {HEAVY} if name in sys.modules))
"""

COLLECT = """
import pytest
status = pytest.main(["--collect-only", "-q", *{plugins}, "test_plain.py"])
print("status:", int(status))
"""


def run(code: str, folder: Path) -> list[str]:
    """Run code in a fresh interpreter and return its output's lines, the heavy modules it left loaded last."""
    done = subprocess.run(
        [sys.executable, "-c", code + REPORT],
        cwd=folder,
        env=ALONE,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one test that has nothing to do with models."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_plain.py").write_text("def test_plain(): pass\n")
    return tmp_path


def test_package_alone_is_light(folder):
    """`import pytest_quantcheck` imports no numeric library."""
    assert run("import pytest_quantcheck", folder) == ["heavy:"]


def test_plugin_alone_is_light(folder):
    """Starting pytest with the plugin, its option not given, imports no numeric library."""
    lines = run(COLLECT.format(plugins=["-p", "pytest_quantcheck.plugin"]), folder)
    assert "test_plain.py::test_plain" in lines
    assert lines[-2:] == ["status: 0", "heavy:"]


def test_heavy_import_would_be_seen(folder):
    """The two tests above can fail: a numeric library that is imported shows."""
    assert run("import msgspec", folder) == ["heavy: msgspec"]


def test_pytest_finds_the_plugin_by_its_entry_point():
    """The installed project registers exactly one plugin, named quantcheck."""
    (found,) = entry_points(group="pytest11", name="quantcheck")
    assert found.value == "pytest_quantcheck.plugin"
