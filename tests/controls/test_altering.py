"""Altering is in memory alone, says what was done, and refuses what it cannot do by name."""

import hashlib

import pytest
import torch

from pytest_quantcheck.controls.altering import GRADES, SEVERITIES, alter
from pytest_quantcheck.controls.catalogue import CONTROLS
from pytest_quantcheck.errors import NotApplicable
from pytest_quantcheck.models import builtin
from pytest_quantcheck.models.loading import load
from pytest_quantcheck.models.source import Source
from pytest_quantcheck.prompts import read_prompts

ALTERATIONS = [name for name, control in CONTROLS.items() if control.kind != "null"]


def hashes(folder):
    """SHA-256 of every file, by name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def reference():
    """The built-in model's weights."""
    with load(Source("builtin")) as loaded:
        return {name: weight.clone() for name, weight in loaded.model.state_dict().items()}


@pytest.mark.parametrize("control", ALTERATIONS)
def test_model_loaded_again_is_back_to_its_weights(control, reference):
    """Bit for bit, and not one file of it has changed."""
    before = hashes(builtin.DIRECTORY)
    with load(Source("builtin")) as loaded:
        alter(loaded, control, layers=(0, 2, 5), prompts=read_prompts("builtin", samples=32))
        altered = loaded.model.state_dict()
        assert any(not torch.equal(altered[name], weight) for name, weight in reference.items())
    with load(Source("builtin")) as loaded:
        again = loaded.model.state_dict()
        assert all(torch.equal(again[name], weight) for name, weight in reference.items())
    assert hashes(builtin.DIRECTORY) == before


@pytest.mark.parametrize("control", ALTERATIONS)
def test_what_was_done_is_said(control, tiny, held, asked):
    """In a sentence for the report, without a full stop."""
    told = alter(held(tiny("llama")), control, layers=[0, 1], prompts=asked("w40", "w41"))
    assert 10 < len(told) < 160
    assert not told.endswith(".")


def test_every_control_is_made_somewhere():
    """Each defect of the table has grades and a severity among them."""
    defects = {name for name, control in CONTROLS.items() if control.kind == "defect"}
    assert defects == GRADES.keys() == SEVERITIES.keys()
    assert all(SEVERITIES[name] in grades for name, grades in GRADES.items())


@pytest.mark.parametrize("bits", ["int8", "nf4"])
@pytest.mark.parametrize("control", ALTERATIONS)
def test_quantized_model_is_not_applicable(control, bits, checkpoint, asked, request):
    """Its weights are packed in another library's format."""
    loaded = request.getfixturevalue(f"{bits}_model")
    with pytest.raises(NotApplicable, match="model is quantized"):
        alter(loaded, control, layers=[0], prompts=asked("w40", "w41"))


@pytest.fixture(scope="module")
def int8_model(checkpoint):
    """A small Llama in LLM.int8()."""
    return load(Source(str(checkpoint)), "int8")


@pytest.fixture(scope="module")
def nf4_model(checkpoint):
    """The same in NF4."""
    return load(Source(str(checkpoint)), "nf4")


@pytest.mark.parametrize("control", ALTERATIONS)
def test_missing_layer_is_not_applicable(control, tiny, held, asked):
    """The message gives the layers that there are."""
    with pytest.raises(NotApplicable, match="layers 0 to 2, and 7 is none of them"):
        alter(held(tiny("llama")), control, layers=[7], prompts=asked("w40", "w41"))


def test_no_layer_is_not_applicable(tiny, held, asked):
    """Without a measured layer there is nothing in the middle."""
    with pytest.raises(NotApplicable, match="no layer is measured"):
        alter(held(tiny("llama")), "wrong-scales", layers=[], prompts=asked("w40"))


def test_unknown_name_is_an_error(tiny, held, asked):
    """The message lists those that there are."""
    with pytest.raises(ValueError, match=r"one of rewrite-permuted, .*three-bits, got 'wrong-weights'\."):
        alter(held(tiny("llama")), "wrong-weights", layers=[0], prompts=asked("w40"))


def test_null_is_no_alteration(tiny, held, asked):
    """Nulls are the reference, loaded or measured otherwise."""
    with pytest.raises(ValueError, match="got 'null-dtype': a null is the reference as it is"):
        alter(held(tiny("llama")), "null-dtype", layers=[0], prompts=asked("w40"))


@pytest.mark.parametrize("severity", [0, -1, float("nan"), float("inf")])
def test_severity_is_a_positive_number(severity, tiny, held, asked):
    """Nothing else is multiplied into weights."""
    with pytest.raises(ValueError, match="positive number as the severity of wrong-scales"):
        alter(held(tiny("llama")), "wrong-scales", layers=[0], prompts=asked("w40"), severity=severity)
