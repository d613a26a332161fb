"""--quantcheck-controls: the gate is tested on models that must pass and on models that must not."""

import json

import pytest
from jsonschema import Draft202012Validator

from pytest_quantcheck.controls.catalogue import CONTROLS
from pytest_quantcheck.reporting import schema_text

QUICK = (
    "--quantcheck-model=builtin",
    "--quantcheck-controls",
    "--quantcheck-samples=24",
    "--quantcheck-layers=2",
    "--quantcheck-bits=8",
    "--quantcheck-attribution=off",
)
NULL = "quantcheck::test_control[null-batches-builtin]"
OTHER_FORMAT = "quantcheck::test_control[null-dtype-builtin]"
REWRITE = "quantcheck::test_control[rewrite-rescaled-builtin]"
DEFECT = "quantcheck::test_control[three-bits-builtin]"

PROFILE = """
schema = 1
name = "trial"
version = 1
description = "One limit."

[decision]
confidence = 0.95
inconclusive = "point"

[metrics.kl_divergence]
max = {limit}
evidence = "none"
"""


pytestmark = pytest.mark.usefixtures("undrawn")


def read(run, name):
    """A file of the run's report."""
    return json.loads((run.directory / "report" / name).read_bytes())


@pytest.fixture
def judged_by(gate, pytester):
    """Runs a null and a defect, judged by one limit for the KL divergence.

    The null is the one that differs from the reference on every machine: bf16 keeps 8 bits of what fp32 keeps 24 of,
    whatever the kernels. Whether other batches change anything depends on the kernels.
    """

    def run(limit, *arguments):
        pytester.makefile(".toml", trial=PROFILE.format(limit=limit))
        profile = "--quantcheck-profile=trial.toml"
        return gate(*QUICK, profile, "--quantcheck-report=report", OTHER_FORMAT, DEFECT, *arguments)

    return run


def test_one_item_for_each_control_and_prompt_set_behind_the_candidates(gate):
    """Control after control, so that each is loaded once; nothing without the option."""
    listed = ("--collect-only", "-q")
    ids = gate(*QUICK, *listed).ids
    expected = [f"quantcheck::test_control[{name}-builtin]" for name in CONTROLS]
    assert ids[-len(CONTROLS) :] == expected
    assert all("int8" in nodeid for nodeid in ids[: -len(CONTROLS)])
    assert not any("control" in nodeid for nodeid in gate(QUICK[0], *listed).ids)


def test_controls_are_selected_like_tests(gate):
    """By -k and by the name of the test."""
    assert gate(*QUICK, "--collect-only", "-q", "-k", "swapped").ids == [
        "quantcheck::test_control[swapped-layers-builtin]"
    ]
    assert len(gate(*QUICK, "--collect-only", "-q", "quantcheck::test_control").ids) == len(CONTROLS)


def test_gate_that_works(gate):
    """What is no damage passes and a defect is caught; lines, certificate and report say so."""
    found = gate(*QUICK, "--quantcheck-report=report", NULL, REWRITE, DEFECT)
    assert found.status == 0, found.text
    assert "3 passed" in found.lines[-1]
    start = found.lines.index("controls on builtin")
    null, rewrite, defect, conclusion, *files = found.lines[start + 1 : start + 7]
    assert null == "null    null-batches         passed"
    assert rewrite == "rewrite rewrite-rescaled     passed"
    assert defect.startswith("defect  three-bits           seen by ")
    assert conclusion == "2 of 2 negative controls passed, 1 of 1 defect was caught"
    assert files == ["report: report/report.json", "certificate: report/certificate.json"]
    certificate = read(found, "certificate.json")
    Draft202012Validator(json.loads(schema_text("certificate"))).validate(certificate)
    assert (certificate["outcome"], certificate["conclusion"]) == ("partial", conclusion)
    assert read(found, "report.json")["certificate"] == certificate


def test_defect_that_no_metric_sees_fails_the_run(judged_by):
    """Under a limit that nothing reaches; the text lists what each metric saw."""
    found = judged_by(10)
    assert found.status == pytest.ExitCode.TESTS_FAILED
    assert "1 failed, 1 passed" in found.lines[-1]
    assert "three-bits on builtin must be caught: no metric saw it" in found.lines
    assert any(line.startswith("  KL divergence: 0.") and "limit at most 10" in line for line in found.lines)
    assert "defect  three-bits           FAILED: no metric saw it" in found.lines
    assert "1 of 1 negative control passed, 0 of 1 defect was caught" in found.lines
    assert read(found, "certificate.json")["outcome"] == "failed"


def test_null_that_is_called_damage_fails_the_run(judged_by):
    """Under a limit that the rounding of bf16 exceeds; the verdict behind it is told in full."""
    found = judged_by(0)
    assert found.status == pytest.ExitCode.TESTS_FAILED
    assert "null-dtype on builtin must pass: called damage by KL divergence" in found.lines
    assert "KL divergence of null-dtype on builtin is above its limit" in found.lines
    assert "0 of 1 negative control passed, 1 of 1 defect was caught" in found.lines


def test_control_that_is_not_applicable_is_skipped_by_name(gate, checkpoint):
    """With its reason, in the terminal and in the certificate; it fails nothing."""
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"attn_implementation": "eager"}))
    named = NULL.replace("batches", "kernels")
    found = gate(f"--quantcheck-model={checkpoint}", *QUICK[1:], "--quantcheck-report=report", "-rs", named)
    assert (found.status, "1 skipped" in found.lines[-1]) == (0, True)
    assert any("runs eager attention already" in line for line in found.lines if line.startswith("SKIPPED"))
    assert "1 not applicable" in found.lines
    (control,) = read(found, "certificate.json")["controls"]
    assert (control["control"], control["outcome"]) == ("null-kernels", "not applicable")


def test_control_that_cannot_be_measured_has_failed(gate, checkpoint):
    """A model that is not there says nothing for the gate."""
    (checkpoint / "model.safetensors").write_bytes(b"")
    found = gate(f"--quantcheck-model={checkpoint}", *QUICK[1:], "--quantcheck-report=report", NULL)
    assert found.status == pytest.ExitCode.TESTS_FAILED
    certificate = read(found, "certificate.json")
    assert certificate["outcome"] == "failed"
    assert "model.safetensors is damaged" in certificate["controls"][0]["reason"]


def test_run_that_stopped_early_certifies_nothing(judged_by):
    """Where -x ends the run before the last control."""
    found = judged_by(0, "-x")
    certificate = read(found, "certificate.json")
    assert [control["control"] for control in certificate["controls"]] == ["null-dtype"]
    assert certificate["outcome"] == "failed"


def test_dry_run_names_the_controls(gate):
    """What would be done is said, nothing is loaded."""
    found = gate(*QUICK, "--quantcheck-only", "--quantcheck-dry-run")
    assert found.status == 0
    assert f"controls: {', '.join(CONTROLS)}" in found.text
