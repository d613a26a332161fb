"""What the built packages carry. `.ci/run` installs the wheel; here its contents are checked."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def build(target: str, folder: Path) -> Path:
    """Build a wheel or an sdist into a folder, without network, and return its path."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return next(folder.iterdir())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The wheel's files by name."""
    with zipfile.ZipFile(build("wheel", tmp_path_factory.mktemp("wheel"))) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def files(folder: str) -> list[Path]:
    """Every file of ours under a folder, caches aside."""
    found = [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return [path.relative_to(ROOT) for path in sorted(found)]


def test_wheel_carries_every_threshold_profile(wheel):
    """The top-level thresholds/ lie inside the package of the wheel, byte for byte."""
    for path in files("thresholds"):
        assert wheel[f"pytest_quantcheck/{path.as_posix()}"] == (ROOT / path).read_bytes()


def test_wheel_carries_the_whole_package(wheel):
    """No module, prompt file or weight of the package is left out."""
    assert {path.as_posix() for path in files("pytest_quantcheck")} <= set(wheel)


def test_wheel_carries_nothing_but_the_package(wheel):
    """Tests and documents are not installed at the top of a user's site-packages, nor the built-in model's making."""
    tops = {name.partition("/")[0] for name in wheel}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"pytest_quantcheck"}
    model = "pytest_quantcheck/models/builtin/"
    assert [name for name in wheel if name.startswith(model) and name.endswith(".py")] == [f"{model}__init__.py"]


def test_wheel_registers_the_plugin_and_has_its_licence(wheel):
    """The metadata names the entry point and carries the licence text."""
    text = {Path(name).name: content.decode() for name, content in wheel.items() if ".dist-info/" in name}
    assert "[pytest11]\nquantcheck = pytest_quantcheck.plugin" in text["entry_points.txt"]
    assert text["LICENSE"] == (ROOT / "LICENSE").read_text()


def test_sdist_is_enough_to_build_and_test(tmp_path):
    """The source distribution has the package, its thresholds, its tests and what `make test` reads."""
    with tarfile.open(build("sdist", tmp_path)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {path.as_posix() for folder in ("pytest_quantcheck", "thresholds", "tests") for path in files(folder)}
    assert wanted | {"Makefile", "constraints.txt", "pyproject.toml", "conftest.py", "LICENSE", "README.md"} <= names
