"""Nulls are the reference, loaded, run or measured differently."""

import pytest
import torch

from pytest_quantcheck.controls.applying import apply_control
from pytest_quantcheck.errors import NotApplicable
from pytest_quantcheck.measuring import Plan
from pytest_quantcheck.models.loading import Source, load

PLAN = Plan(batch_size=12, seed=5)


@pytest.fixture
def loaded():
    """The built-in model, in memory."""
    with load(Source("builtin", dtype="fp32")) as model:
        yield model


@pytest.fixture
def null_of(asked):
    """Makes a null of a loaded model; returns the plan and what was done."""
    return lambda loaded, name: apply_control(loaded, name, plan=PLAN, prompts=asked("w40"))


def test_other_batches_are_another_plan(tiny, held, changed, null_of):
    """Smaller batches, shuffled; the weights stay."""
    loaded = held(tiny("llama"))
    plan, done = null_of(loaded, "null-batches")
    assert (plan.batch_size, plan.shuffle) == (4, 5)
    assert done == "batches of 4 instead of 12 prompts, in another order"
    assert changed(tiny("llama"), loaded.model) == []


def test_other_dtype_is_how_it_was_loaded(tiny, held, changed, null_of):
    """The plan and the loaded weights stay."""
    loaded = held(tiny("llama"))
    assert null_of(loaded, "null-dtype") == (PLAN, "loaded as torch.float32")
    assert changed(tiny("llama"), loaded.model) == []


def test_eager_attention_is_the_same_function(loaded, null_of):
    """Other kernels, the same logits but for rounding: float32 sums of at most 8 tokens in another order."""
    tokens = torch.arange(8)[None]
    before = loaded.model(tokens).logits
    assert null_of(loaded, "null-kernels") == (PLAN, "eager attention instead of sdpa")
    torch.testing.assert_close(loaded.model(tokens).logits, before, atol=1e-4, rtol=1e-4)


def test_model_that_is_eager_already_has_no_other_kernels(loaded, null_of):
    """The control is not applicable, with the reason."""
    null_of(loaded, "null-kernels")
    with pytest.raises(NotApplicable, match="LlamaForCausalLM runs eager attention already"):
        null_of(loaded, "null-kernels")
