"""The report for machines, and the schema it keeps to."""

import json
import pathlib
import subprocess
import sys

import jsonschema
import msgspec
import numpy as np
import pytest

import pytest_quantcheck.reporting
from pytest_quantcheck.errors import StorageError
from pytest_quantcheck.reporting import Report, encode_report, schema_text
from tests.reporting.runs import CREATED, run_of

SCHEMA_FILE = pathlib.Path(pytest_quantcheck.reporting.__file__).with_name("report.schema.json")


def encode(verdicts, *comparisons, **head):
    """The report of a failed run."""
    return encode_report(msgspec.structs.replace(run_of(verdicts, *comparisons), **head))


def valid(data):
    """Check a report against the file that is published."""
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    validator.check_schema(schema)
    validator.validate(data)
    return data


def test_schema_file_is_that_of_the_code():
    """The published schema follows the records: `python -m pytest_quantcheck.reporting` prints it."""
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text(), (
        "write it anew: python -m pytest_quantcheck.reporting > pytest_quantcheck/reporting/report.schema.json"
    )


def test_module_prints_the_schema():
    """`python -m pytest_quantcheck.reporting` prints the schema and nothing else."""
    command = [sys.executable, "-m", "pytest_quantcheck.reporting"]
    assert subprocess.run(command, capture_output=True, check=True, text=True).stdout == schema_text()


def test_report_keeps_to_the_schema(make):
    """A report with every kind of verdict is valid, and says which schema it has."""
    verdicts, comparison = make.damaged_run()
    report = valid(json.loads(encode(verdicts, comparison, causes={"fp4": ["no such file"]})))
    assert (report["schema"], report["causes"]) == (2, {"fp4": ["no such file"]})


@pytest.mark.parametrize("key", ["schema", "verdicts", "comparisons", "outcome", "created"])
def test_report_with_a_hole_is_invalid(key, make):
    """The schema sees what is missing."""
    data = json.loads(encode([make.verdict()]))
    del data[key]
    with pytest.raises(jsonschema.ValidationError, match=key):
        valid(data)


def test_report_holds_everything(make):
    """What is read back are the records that went in, provenance and histograms included."""
    verdicts, comparison = make.damaged_run()
    report = msgspec.json.decode(encode(verdicts, comparison), type=Report)
    assert report.verdicts == tuple(verdicts)
    assert report.comparisons == (comparison,)
    assert (report.created, report.outcome, report.profile) == (CREATED, "failed", "default@1")


def test_same_records_give_the_same_bytes(make):
    """The order in which mappings were filled does not show."""
    one, two = ({"model": "m", "bits": ["nf4"]}, {"bits": ["nf4"], "model": "m"})
    assert encode([make.verdict()], settings=one) == encode([make.verdict()], settings=two)


def test_settings_may_hold_paths_and_numpy_floats():
    """What is not JSON's own but has one obvious form takes it."""
    settings = {"prompts": (pathlib.PurePosixPath("a/b.csv"),), "fail": {"ace_drift": np.float64(0.5)}}
    assert json.loads(encode([], settings=settings))["settings"] == {"prompts": ["a/b.csv"], "fail": {"ace_drift": 0.5}}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float64("-inf")])
def test_number_that_is_not_finite_is_refused(value, make):
    """JSON would silently turn such a number into null: the report is refused, with the place of the number."""
    with pytest.raises(StorageError, match=r"^report\.verdicts\[1\]\.estimate\.value: expected a finite number"):
        encode([make.verdict(), make.verdict(make.estimate(value=value))])


def test_names_of_any_bytes_can_be_written(make):
    """A file name that is not UTF-8 does not cost the report."""
    name = b"caf\xe9.csv".decode("utf-8", "surrogateescape")
    data = json.loads(encode([make.verdict(prompt_set=name)]))
    assert data["verdicts"][0]["prompt_set"] == r"caf\udce9.csv"
