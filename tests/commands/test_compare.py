"""`python -m pytest_quantcheck compare REF CAND`: the gate's verdicts from what was stored, and the exit status."""

import dataclasses
import importlib
import json
import shutil
import subprocess
import sys

import msgspec
import pytest

from pytest_quantcheck.commands import main
from pytest_quantcheck.reporting import Report
from pytest_quantcheck.storage import load_measurement, save_measurement

from .conftest import QUICK

ROUNDING = 1e-4  # a stored reference's correlations are rounded to 1/32,767


def compare(stored, *arguments, candidate="int8"):
    """The exit status of `compare`."""
    return main(["compare", str(stored / "reference"), str(stored / candidate), *arguments])


def test_good_candidate_is_0(stored, capsys):
    """The table that a gate prints, and nothing on stderr; the next steps name this command's options."""
    assert compare(stored) == 0
    out, err = capsys.readouterr()
    assert out.startswith("int8: may be released (")
    assert "\nint8 on builtin: 16 prompts\nmetric " in out
    assert "--quantcheck" not in out
    assert err == ""


def test_candidate_beyond_a_limit_is_1(stored, capsys):
    """What stands against it is said first, with the limit that was given."""
    assert compare(stored, "--fail", "redundancy_change:0.0001") == 1
    out, _ = capsys.readouterr()
    assert out.startswith("int8: not fit for release (1 failed, ")
    assert "\n- redundancy change of int8 on builtin at layer 2 is above its limit" in out


def test_profile_is_taken_by_name_or_path(copied, tmp_path, capsys):
    """Also one that decides the other way.

    The candidate has the reference's answers and an int8 model's neurons: default@1 fails one flip of 16 prompts, and
    which prompts flip at int8 depends on the processor.
    """
    reference, int8 = (load_measurement(copied / name / "builtin") for name in ("reference", "int8"))
    save_measurement(dataclasses.replace(int8, answers=reference.answers), copied / "int8" / "builtin")
    profile = tmp_path / "strict.toml"
    profile.write_text(
        'schema = 1\nname = "strict"\nversion = 1\ndescription = "d"\n[decision]\nconfidence = 0.9\n'
        'inconclusive = "fail"\n[metrics.redundancy_change]\nmax = 0.0001\nevidence = "none"\n'
    )
    assert compare(copied, "--profile", str(profile)) == 1
    assert compare(copied, "--profile", "default@1", "--allow-unmeasured", "salient_overlap") == 0
    assert "90 % interval" in capsys.readouterr().out


def test_one_measurement_is_as_good_as_a_directory_of_them(stored, capsys):
    """Either side may be the measurement's own directory."""
    assert main(["compare", str(stored / "reference" / "builtin"), str(stored / "int8")]) == 0
    assert main(["compare", str(stored / "reference"), str(stored / "int8" / "builtin")]) == 0
    one, other = capsys.readouterr().out.split("int8: may be released")[1:]
    assert one == other


def test_report_holds_what_was_found(stored, tmp_path, capsys):
    """A whole report, its outcome that of the exit status, its settings those of the command."""
    assert compare(stored, "--report", str(tmp_path / "report"), "--fail", "redundancy_change:0.0001") == 1
    path = tmp_path / "report" / "report.json"
    page = path.with_suffix(".html")
    assert capsys.readouterr().out.endswith(f"report: {path}\nreport: {page}\n")
    assert "redundancy change" in page.read_text()
    found = msgspec.json.decode(path.read_bytes(), type=Report)
    assert (found.outcome, found.profile) == ("failed", "default@2")
    assert found.settings["fail"] == [["redundancy_change", 0.0001]]
    assert found.settings["reference"] == str(stored / "reference")
    (comparison,) = found.comparisons
    assert (comparison.candidate, comparison.profile.label) == ("int8", "default@2")


def test_verdicts_are_those_of_one_run_of_pytest(stored, tmp_path, pytester):
    """What was measured apart and judged later is what a gate finds at once."""
    asked = [f"--quantcheck-{option.removeprefix('--')}" if "--" in option else option for option in QUICK]
    models = ("--quantcheck-model=builtin", "--quantcheck-bits=int8", "--quantcheck-report=report")
    for module in (
        "assertions",
        "suite.session",
        "controls.nulls",
    ):  # pytester forgets what is first imported within a run
        importlib.import_module(f"pytest_quantcheck.{module}")
    done = pytester.runpytest_inprocess("-W", "default", "--quantcheck-only", *models, *asked)
    assert done.ret == pytest.ExitCode.OK
    compare(stored, "--report", str(tmp_path / "report"))
    gate, ours = (json.loads((folder / "report" / "report.json").read_text()) for folder in (pytester.path, tmp_path))
    assert len(ours["verdicts"]) == len(gate["verdicts"]) == 7
    for obtained, expected in zip(ours["verdicts"], gate["verdicts"], strict=True):
        assert [obtained[key] for key in ("metric", "status", "limit")] == [
            expected[key] for key in ("metric", "status", "limit")
        ]
        for number in ("value", "low", "high"):
            assert obtained["estimate"][number] == pytest.approx(expected["estimate"][number], abs=ROUNDING)


def test_released_candidate_is_called_by_its_path(copied, capsys):
    """The last part of it, where a bit-width says nothing."""
    change(copied / "int8" / "builtin", bits="released", model="out/small-int8")
    assert compare(copied) == 0
    assert capsys.readouterr().out.startswith("small-int8: may be released")


def change(directory, **fields):
    """Store the measurement in a directory with another provenance."""
    found = load_measurement(directory)
    provenance = msgspec.structs.replace(found.provenance, **fields)
    save_measurement(dataclasses.replace(found, provenance=provenance), directory)


def test_candidate_that_is_the_reference_is_refused(refused, stored):
    """To the last bit: it was never quantized."""
    sentence = refused("compare", stored / "reference", stored / "reference")
    assert "on builtin: every answer and activation equals the reference's to the last bit" in sentence


def test_candidate_given_first_is_refused(refused, stored):
    """The order is said."""
    sentence = refused("compare", stored / "int8", stored / "reference")
    assert sentence.endswith("expected the reference's measurement, got one of int8; REF comes first, then CAND")


def test_prompt_set_of_one_side_is_refused(refused, copied):
    """Each is named with the directory that has it."""
    for side, name in (("reference", "one"), ("int8", "other")):
        shutil.copytree(copied / side / "builtin", copied / side / name)
        change(copied / side / name, prompt_set=name)
    sentence = refused("compare", copied / "reference", copied / "int8")
    assert sentence == (
        "expected the same prompt sets in both directories, found only in one: "
        f"one in {copied / 'reference'}, other in {copied / 'int8'}"
    )


def test_two_measurements_on_one_prompt_set_are_refused(refused, copied):
    """Which one would be a guess."""
    shutil.copytree(copied / "int8" / "builtin", copied / "int8" / "copy")
    sentence = refused("compare", copied / "reference", copied / "int8")
    assert sentence.endswith("int8/copy are both measurements on builtin: take one of them away")


def test_directory_without_a_measurement_is_refused(refused, stored, tmp_path):
    """Empty or not there."""
    for place in (tmp_path, tmp_path / "nowhere"):
        sentence = refused("compare", stored / "reference", place)
        assert sentence.startswith(f"{place}: expected a measurement, or a directory with one for each prompt set")


@pytest.mark.parametrize("name", ["measurement.safetensors", "measurement.json"])
def test_measurement_that_cannot_be_read_is_refused(refused, copied, name):
    """A file that is damaged or of schema 2 is named; a prompt set is never passed over."""
    folder = copied / "int8" / "builtin"
    (folder / "measurement.safetensors").unlink()
    (folder / name).write_bytes(b"{")
    sentence = refused("compare", copied / "reference", copied / "int8")
    assert str(folder) in sentence
    assert "measure again" in sentence


def test_what_was_not_measured_alike_is_refused(refused, copied):
    """The difference is named."""
    change(copied / "int8" / "builtin", seed=7)
    sentence = refused("compare", copied / "reference", copied / "int8")
    assert sentence.startswith("reference and candidate differ in seed (0 in the reference, 7 in the candidate)")


def test_report_that_cannot_be_written_costs_no_verdict(stored, capsys):
    """The exit status is that of the verdicts, and a sentence says what to do."""
    assert compare(stored, f"--report={__file__}/report") == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "the verdicts stand" in line)
    assert line.endswith("found a regular file; it was left as it is: remove it or choose another place")


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--fail=ace_drift", "--fail: expected METRIC:VALUE, such as ace_drift:0.05, got 'ace_drift'"),
        ("--fail=ace_drit:1", "--fail: expected a metric (ace_drift, "),
        ("--allow-unmeasured=salient", "--allow-unmeasured: expected a metric (salient_overlap, "),
        ("--profile=strict@9", "profile 'strict@9': expected NAME@VERSION or the path of a .toml file"),
        (f"--report={__file__}", "--report: expected a directory, got the file"),
    ],
)
def test_bad_values_are_refused_by_name(refused, stored, argument, sentence):
    """With the sentences of pytest's options."""
    assert sentence in refused("compare", stored / "reference", stored / "int8", argument)


def test_profile_without_a_limit_for_what_was_measured_is_refused(refused, stored, tmp_path):
    """No verdict is no pass."""
    profile = tmp_path / "overlap.toml"
    profile.write_text(
        'schema = 1\nname = "overlap"\nversion = 1\ndescription = "d"\n[decision]\nconfidence = 0.9\n'
        'inconclusive = "fail"\n[metrics.salient_overlap]\nmin = 0.5\nevidence = "none"\n'
    )
    sentence = refused("compare", stored / "reference", stored / "int8", "--profile", profile)
    assert sentence.startswith("nothing was judged of int8 on builtin: no selected test reached a verdict by overlap@1")


@pytest.mark.ci
def test_comparing_needs_no_model_library(stored):
    """A machine that only judges imports no transformers, and a real process ends with the status."""
    code = f"""
import runpy, sys
sys.argv = ["pytest_quantcheck", "compare", {str(stored / "reference")!r}, {str(stored / "int8")!r}]
try:
    runpy.run_module("pytest_quantcheck", run_name="__main__", alter_sys=True)
except SystemExit as end:
    print(end.code, [name for name in ("transformers", "bitsandbytes", "pytest") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "0 []"
    assert done.stderr == ""
