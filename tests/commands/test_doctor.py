"""`python -m pytest_quantcheck doctor`: one fact a line, a lack as a warning, exit status 0."""

import importlib.metadata

import pytest
import torch

from pytest_quantcheck.commands import main
from pytest_quantcheck.models.formats import FORMATS

STARTS = (
    "python: 3.",
    "torch: ",
    "transformers: ",
    "device: auto is c",
    "instruction set: ",
    "bitsandbytes: kernels for ",
    "threads: torch takes ",
    "memory: ",
    "disk: ",
    "hub: ",
    "step summary: ",
)


@pytest.fixture
def doctor(capsys):
    """Runs the command; gives its lines."""

    def run():
        assert main(["doctor"]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        return out.splitlines()

    return run


def test_facts(doctor):
    """Versions, devices, kernels, threads, memory, disks, the hub and the summary; each line has a name."""
    lines = doctor()
    for start in STARTS:
        assert any(line.startswith(start) for line in lines), start
    assert all(": " in line for line in lines)
    assert f"torch: {torch.__version__}" in lines


def test_every_format_is_named_with_what_it_needs(doctor):
    """Whether its packages are here or not."""
    text = "\n".join(doctor())
    for one in FORMATS:
        assert f"{one.method or one.file.suffix} candidates" in text
        assert all(package in text for package in one.packages)


def test_environment(doctor, monkeypatch):
    """What is set is said."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    lines = doctor()
    assert "hub: HF_HUB_OFFLINE is set, nothing is fetched" in lines
    assert "step summary: appended to summary.md" in lines
    assert any(line.endswith("OMP_NUM_THREADS is 1") for line in lines)


@pytest.mark.parametrize(
    ("package", "said"),
    [
        ("gptqmodel", "warning: gptq candidates need gptqmodel"),
        ("torchao", "warning: torchao candidates need torchao, not installed: pip install torchao"),
        ("jinja2", "warning: report.html needs jinja2: pip install 'pytest-quantcheck[report]'"),
        ("torch", "warning: torch is required and not installed: pip install torch"),
    ],
)
def test_missing_package_is_a_warning(doctor, monkeypatch, package, said):
    """With what it is for and what to do; without a required one nothing is asked of the libraries."""
    version = importlib.metadata.version

    def without(name):
        if name == package:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr("importlib.metadata.version", without)
    lines = doctor()
    assert any(line.startswith(said) for line in lines), lines
    assert any(line.startswith("device: ") for line in lines) == (package != "torch")
