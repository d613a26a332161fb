"""A control is made in memory, says what was done, and refuses what it cannot do by name."""

import hashlib

import pytest
import torch

from pytest_quantcheck.controls.applying import apply_control, load_as
from pytest_quantcheck.controls.catalogue import CONTROLS
from pytest_quantcheck.errors import ModelError, NotApplicable
from pytest_quantcheck.measuring import Plan
from pytest_quantcheck.models import builtin
from pytest_quantcheck.models.loading import load
from pytest_quantcheck.models.source import Source
from pytest_quantcheck.prompts import read_prompts

ALTERATIONS = [name for name, control in CONTROLS.items() if control.kind != "null"]
OF_DENSE_MODELS = [name for name in ALTERATIONS if name != "four-bit-router"]


def hashes(folder):
    """SHA-256 of every file, by name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def reference():
    """The built-in model's weights."""
    with load(Source("builtin")) as loaded:
        return {name: weight.clone() for name, weight in loaded.model.state_dict().items()}


@pytest.mark.parametrize("control", OF_DENSE_MODELS)
def test_model_loaded_again_is_back_to_its_weights(control, reference):
    """Bit for bit, and not one file of it has changed."""
    before = hashes(builtin.DIRECTORY)
    with load(Source("builtin")) as loaded:
        apply_control(loaded, control, plan=Plan(layers=(0, 2, 5)), prompts=read_prompts("builtin", samples=32))
        altered = loaded.model.state_dict()
        assert any(not torch.equal(altered[name], weight) for name, weight in reference.items())
    with load(Source("builtin")) as loaded:
        again = loaded.model.state_dict()
        assert all(torch.equal(again[name], weight) for name, weight in reference.items())
    assert hashes(builtin.DIRECTORY) == before


@pytest.mark.parametrize("control", ALTERATIONS)
def test_what_was_done_is_said(control, tiny, held, asked):
    """In a sentence for the report, without a full stop."""
    plan = Plan(layers=(0, 1))
    model = tiny("mixtral" if control == "four-bit-router" else "llama")
    same, done = apply_control(held(model), control, plan=plan, prompts=asked("w40", "w41"))
    assert same is plan
    assert 10 < len(done) < 160
    assert not done.endswith(".")


@pytest.mark.parametrize("control", CONTROLS)
def test_reference_dtype_decides_what_is_loaded(control):
    """The reference as it is, except for the control in another float format."""
    expected = ["fp32", "fp32", "bf16"] if control == "null-dtype" else ["reference"] * 3
    assert [load_as(control, dtype) for dtype in ("bf16", "fp16", "fp32")] == expected


@pytest.mark.parametrize("bits", ["int8", "nf4"])
@pytest.mark.parametrize("control", ALTERATIONS)
def test_quantized_model_is_not_applicable(control, bits, checkpoint, asked, request):
    """Its weights are packed in another library's format."""
    loaded = request.getfixturevalue(f"{bits}_model")
    with pytest.raises(NotApplicable, match="model is quantized"):
        apply_control(loaded, control, plan=Plan(layers=(0,)), prompts=asked("w40", "w41"))


@pytest.fixture(scope="module")
def int8_model(checkpoint):
    """A small Llama in LLM.int8()."""
    return load(Source(str(checkpoint)), "int8")


@pytest.fixture(scope="module")
def nf4_model(checkpoint):
    """The same in NF4."""
    return load(Source(str(checkpoint)), "nf4")


@pytest.mark.parametrize("control", ALTERATIONS)
def test_missing_layer_is_an_error(control, tiny, held, asked):
    """As for every other model of a run; the message gives the layers that there are."""
    with pytest.raises(ModelError, match="layers 0 to 2, and 7 is none of them"):
        apply_control(held(tiny("llama")), control, plan=Plan(layers=(7,)), prompts=asked("w40", "w41"))


def test_no_layer_is_not_applicable(tiny, held, asked):
    """Without a measured layer there is nothing in the middle."""
    with pytest.raises(NotApplicable, match="no layer is measured"):
        apply_control(held(tiny("llama")), "wrong-scales", plan=Plan(layers=()), prompts=asked("w40"))


def test_unknown_name_is_an_error(tiny, held, asked):
    """The message lists those that there are."""
    with pytest.raises(ValueError, match=r"one of null-batches, .*four-bit-router, got 'wrong-weights'\."):
        apply_control(held(tiny("llama")), "wrong-weights", plan=Plan(), prompts=asked("w40"))


@pytest.mark.parametrize("control", [name for name, control in CONTROLS.items() if control.kind != "defect"])
def test_only_a_defect_has_a_severity(control, tiny, held, asked):
    """A null or a rewrite is equivalent or it is not."""
    with pytest.raises(ValueError, match=rf"{control} has no severity, got 0\.5"):
        apply_control(held(tiny("llama")), control, plan=Plan(), prompts=asked("w40"), severity=0.5)


@pytest.mark.parametrize("severity", [0, -1, float("nan"), float("inf")])
def test_severity_is_a_positive_number(severity, tiny, held, asked):
    """Nothing else is multiplied into weights."""
    with pytest.raises(ValueError, match="positive number as the severity of wrong-scales"):
        apply_control(held(tiny("llama")), "wrong-scales", plan=Plan(), prompts=asked("w40"), severity=severity)
