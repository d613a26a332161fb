"""Models in less memory than they take: the same comparisons, and one sentence where that cannot be."""

import json

import pytest

ALL = (
    "--quantcheck-model=builtin",
    "--quantcheck-only",
    "--quantcheck-samples=12",
    "--quantcheck-attribution-samples=6",
    "--quantcheck-continuation=4",
)


@pytest.mark.ci
def test_reference_that_is_partly_on_disk_gives_the_same_comparisons(gate, tmp_path):
    """Of a candidate in memory, and of one that is on disk too; the header and the log say so."""
    compared = {}
    for name, room in (("here", ()), ("disk", ("--quantcheck-max-memory=cpu:2MB",))):
        found = gate(*ALL, "--quantcheck-bits=8,fp16", *room, f"--quantcheck-report={tmp_path / name}")
        compared[name] = json.loads((tmp_path / name / "report.json").read_text())["comparisons"]
    assert "continued by up to 4 tokens; device auto with weights in 2.0 MB of cpu, batch size 16" in found.text
    assert "% of its weights do not fit and are fetched whenever a layer is called" in found.text
    assert compared["disk"] == compared["here"]


@pytest.mark.parametrize(
    ("bits", "room", "said"),
    [
        ("fp16", "100kB", "alone takes 0.4 MB, and weights may take 0.1 MB of cpu"),
        ("8", "1MB", "builtin as int8 takes 1.4 MB, and its weights may take 0.9 MB"),
        ("fp16", "1MB,cuda:63:1GB", "--quantcheck-max-memory names cuda:63, and torch"),
    ],
)
@pytest.mark.parametrize("how", [(), ("--quantcheck-dry-run",), pytest.param(("-n", "1"), marks=pytest.mark.ci)])
def test_too_little_memory_is_refused_at_once(gate, bits, room, said, how):
    """Before the reference is loaded; the same in a dry run."""
    found = gate(*ALL, f"--quantcheck-bits={bits}", f"--quantcheck-max-memory=cpu:{room}", *how)
    assert found.status == pytest.ExitCode.USAGE_ERROR
    sentences = [line for line in found.lines if said in line]
    assert sentences
    assert all(line.startswith("problem: " if "--quantcheck-dry-run" in how else "ERROR: ") for line in sentences)
    assert "no tests ran" in found.text
    assert "Traceback" not in found.text


@pytest.mark.ci
def test_control_is_not_made_of_weights_on_disk(gate):
    """One sentence says what to do."""
    found = gate(*ALL, "--quantcheck-bits=fp16", "--quantcheck-controls", "--quantcheck-max-memory=cpu:2MB")
    assert "is made by changing weights, and some are on disk: give them more memory with" in found.text
