"""What controls showed: lines in the terminal, a failed control's text, and `certificate.json`."""

import datetime as dt
import json
import pathlib
import subprocess
import sys

import jsonschema
import msgspec
import pytest

import pytest_quantcheck.reporting
from pytest_quantcheck.controls.certificate import Certificate, certify, judge_control, without_verdicts
from pytest_quantcheck.errors import StorageError
from pytest_quantcheck.reporting import Report, control_lines, control_message, encode_certificate, encode_report
from pytest_quantcheck.reporting.json_report import schema_text
from tests.reporting.runs import run_of

SCHEMA_FILE = pathlib.Path(pytest_quantcheck.reporting.__file__).with_name("certificate.schema.json")
CREATED = dt.datetime(2026, 11, 24, 10, 30, tzinfo=dt.UTC)


@pytest.fixture
def results(make):
    """A null that passes, one that fails and one that is not applicable; a defect that is seen and one that is not."""
    damaged, _ = make.damaged_run()
    sound, _ = make.sound_run()
    return (
        judge_control("null-batches", "boolq", sound, done="batches of 5 instead of 16 prompts, in another order"),
        judge_control("null-dtype", "boolq", damaged[:3], done="loaded as fp32"),
        without_verdicts("null-kernels", "boolq", "not applicable", "it runs eager attention already: " + "no " * 40),
        judge_control("zeroed-rows", "boolq", damaged, done="5 % of the rows of gate_proj zeroed"),
        judge_control("three-bits", "boolq", sound[:2], done="rounded to 3 bits in groups of 64"),
    )


@pytest.fixture
def certificate(results):
    """The certificate of those results."""
    return certify(results, whole=True, model="m", profile="default@1", tool_version="0.1.0", created=CREATED)


def test_one_line_for_each_control(results):
    """Kind, name and what came of it, in at most 80 columns, and a sentence for all."""
    assert [text for text, _ in control_lines(results)] == [
        "",
        "controls on boolq",
        "null    null-batches         passed",
        "null    null-dtype           FAILED: ACE drift",
        "null    null-kernels         not applicable: it runs eager attention ...",
        "defect  zeroed-rows          seen by ACE drift, KL divergence and 3 more",
        "defect  three-bits           FAILED: no metric saw it",
        "1 of 2 negative controls passed, 1 of 2 defects were caught, 1 not applicable",
    ]


def test_narrow_terminal_has_the_whole_of_it_in_more_lines(results):
    """Where an outcome would be cut to nothing it is wrapped: no line too long, and every reason whole."""
    lines = [text for text, _ in control_lines(results, width=40)]
    assert max(map(len, lines)) <= 40
    said = " ".join(" ".join(lines).split())
    assert "- null null-dtype: FAILED: ACE drift - null null-kernels: not applicable: it runs eager" in said
    assert said.count(" no no") == 20
    assert "seen by ACE drift, KL divergence, " in said


def test_no_controls_no_lines():
    """A run without controls says nothing of them."""
    assert list(control_lines(())) == []


def test_null_that_failed_names_what_called_it_damage(results):
    """The sentence, what was done, and the verdict's own text."""
    lines = control_message(results[1]).splitlines()
    assert lines[0] == "null-dtype on boolq must pass: called damage by ACE drift"
    assert "  done       loaded as fp32" in lines
    assert any(line.startswith("  limit      at most 0.0500") for line in lines)
    assert not any("higher bit-width" in line for line in lines)


def test_defect_that_no_metric_saw_lists_what_they_saw(results):
    """Each metric's value beside its limit."""
    lines = control_message(results[4]).splitlines()
    assert lines[0] == "three-bits on boolq must be caught: no metric saw it"
    assert "  accuracy drop: 0.0051, limit at most 0.0500, passed" in lines


def test_schema_file_is_that_of_the_code():
    """The published schema follows the records."""
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text("certificate"), (
        "write it anew: python -m pytest_quantcheck.reporting certificate > "
        "pytest_quantcheck/reporting/certificate.schema.json"
    )


def test_module_prints_the_schema():
    """`python -m pytest_quantcheck.reporting certificate` prints the schema and nothing else."""
    command = [sys.executable, "-m", "pytest_quantcheck.reporting", "certificate"]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    assert done.stdout == schema_text("certificate")


def test_certificate_keeps_to_its_schema(certificate):
    """A certificate with every outcome is valid, and is read back as it was."""
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    validator.check_schema(schema)
    written = encode_certificate(certificate)
    validator.validate(json.loads(written))
    assert msgspec.json.decode(written, type=Certificate) == certificate


def test_report_holds_the_certificate(certificate):
    """The same record stands in the report."""
    written = encode_report(run_of([], certificate=certificate))
    assert msgspec.json.decode(written, type=Report).certificate == certificate


def test_number_that_is_not_finite_is_refused(certificate, make):
    """As in a report, with its place."""
    spread = make.replace(certificate.spreads[0], largest=float("nan"))
    with pytest.raises(StorageError, match=r"^certificate\.spreads\[0\]\.largest: expected a finite number"):
        encode_certificate(make.replace(certificate, spreads=(spread,)))
