"""A number that changed is found, wherever it stands; a text that changed is not taken for one."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.studies.same_numbers import main

REPORT = {"created": "now", "verdicts": [{"estimate": {"value": 0.1, "low": None}, "profile": "default@2"}]}


@pytest.fixture
def kept(tmp_path):
    """Makes a kept directory with a report and one array."""

    def make(name, report=REPORT, array=(1.0, 2.0)):
        (tmp_path / name / "builtin").mkdir(parents=True)
        (tmp_path / name / "baseline").mkdir()
        (tmp_path / name / "builtin" / "report.json").write_text(json.dumps(report))
        save_file({"mean": np.array(array)}, tmp_path / name / "baseline" / "arrays.safetensors")
        return str(tmp_path / name)

    return make


def changed(**changes):
    """The report with these fields of its one verdict changed."""
    return {"created": "later", "verdicts": [REPORT["verdicts"][0] | changes]}


@pytest.mark.parametrize(
    ("after", "status"),
    [
        ({}, 0),
        ({"report": changed(profile="other@1")}, 0),
        ({"report": changed(estimate={"value": 0.1 + 1e-16, "low": None})}, 1),
        ({"report": changed(estimate={"value": 0.1, "low": 0.0})}, 1),
        ({"report": changed(extra=1)}, 1),
        ({"array": (1.0, 2.0 + 1e-15)}, 1),
    ],
)
def test_changed_number_is_found(kept, after, status, capsys):
    """The exit status is 1 for a number, an array or a missing field, and 0 for times and texts."""
    assert main(["compare", kept("before"), kept("after", **after)]) == status
    assert "values compared" in capsys.readouterr().out


def test_nothing_to_compare_is_no_success(tmp_path):
    """Two empty directories hold no evidence."""
    assert main(["compare", str(tmp_path), str(tmp_path)]) == 1
