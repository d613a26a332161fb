"""Rewrites change weights and nothing that the model says."""

import pytest
import torch

from pytest_quantcheck.controls.applying import apply_control
from pytest_quantcheck.errors import NotApplicable
from pytest_quantcheck.measuring import Plan
from tests.tiny_models import MIXTURES

REWRITES = ["rewrite-permuted", "rewrite-rescaled"]
GATED = ["llama", "llama-tied", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi3"]
UNGATED = ["phi", "gpt2", "gpt-neox", "gpt-neox-serial", "opt", "opt-post-norm"]

# Sums over 128 neurons are taken in another order and factors are rounded: some float32 roundings of the largest
# logits, which are below 100 in these models.
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture
def rewritten(held, asked):
    """Rewrites a copy of a model, by default in layers 0 and 2."""

    def rewrite(model, control, layers=(0, 2), dtype=torch.float32, *, seed=0):
        loaded = held(model, dtype)
        apply_control(loaded, control, plan=Plan(layers=layers, seed=seed), prompts=asked("w40", "w41"))
        return loaded.model

    return rewrite


@pytest.mark.parametrize("control", REWRITES)
@pytest.mark.parametrize("name", GATED)
def test_rewritten_gated_model_says_the_same(name, control, tiny, batch_of, rewritten):
    """For every gated architecture, fused projections included."""
    model, inputs = tiny(name), batch_of(6, 4).inputs()
    torch.testing.assert_close(rewritten(model, control)(**inputs).logits, model(**inputs).logits, **CLOSE)


@pytest.mark.parametrize("name", UNGATED)
def test_permuted_ungated_model_says_the_same(name, tiny, batch_of, rewritten, changed):
    """Where neurons are multiplied with nothing there are two matrices, with biases, and transposed in GPT-2."""
    model, inputs = tiny(name), batch_of(6, 4).inputs()
    permuted = rewritten(model, "rewrite-permuted")
    torch.testing.assert_close(permuted(**inputs).logits, model(**inputs).logits, **CLOSE)
    assert len(changed(model, permuted)) == 6  # in each layer two weights and a bias


@pytest.mark.parametrize("name", UNGATED)
def test_rescaling_needs_a_gate(name, tiny, held, asked, changed):
    """Behind an activation function a factor makes another function: not applicable, and nothing is altered."""
    loaded = held(tiny(name))
    with pytest.raises(NotApplicable, match="FFN of layer 0 has no gate product"):
        apply_control(loaded, "rewrite-rescaled", plan=Plan(layers=(0,)), prompts=asked("w40", "w41"))
    assert changed(tiny(name), loaded.model) == []


@pytest.mark.parametrize(
    ("control", "projections"), [("rewrite-permuted", ("gate", "up", "down")), ("rewrite-rescaled", ("up", "down"))]
)
def test_only_the_ffn_of_the_layers_is_rewritten(control, projections, tiny, rewritten, changed):
    """Layer 1 was not asked for; attention, norms and embeddings are never touched."""
    expected = {f"model.layers.{layer}.mlp.{name}_proj.weight" for layer in (0, 2) for name in projections}
    assert set(changed(tiny("llama"), rewritten(tiny("llama"), control))) == expected


def test_permuted_rows_are_the_same_rows(tiny, rewritten):
    """Every row is there still, and few are in their old places."""
    before, after = (_layer(m).gate_proj.weight for m in (tiny("llama"), rewritten(tiny("llama"), "rewrite-permuted")))
    assert torch.equal(before.sort(dim=0).values, after.sort(dim=0).values)
    assert (before == after).all(dim=1).sum() < 10


def test_factors_lie_between_a_half_and_two(tiny, rewritten):
    """Each of the 128 channels has its own."""
    before, after = (_layer(m).up_proj.weight for m in (tiny("llama"), rewritten(tiny("llama"), "rewrite-rescaled")))
    factors = (after / before).median(dim=1).values
    assert 0.5 <= factors.min() < 0.6
    assert 1.8 < factors.max() <= 2
    assert len(factors.unique()) == 128


@pytest.mark.parametrize("control", REWRITES)
def test_seed_decides_the_rewrite(control, tiny, rewritten, changed):
    """The same seed gives the same weights, another one others."""
    first, again, other = (rewritten(tiny("llama"), control, seed=seed) for seed in (3, 3, 4))
    assert changed(first, again) == []
    assert changed(first, other)


@pytest.mark.parametrize("control", REWRITES)
def test_dtype_is_kept(control, tiny, rewritten):
    """A bfloat16 model stays one."""
    model = rewritten(tiny("llama"), control, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("control", REWRITES)
def test_layer_without_known_ffn_is_not_applicable(control, tiny, held, asked, changed):
    """Where layer 1 has none, layer 0 is left alone too."""
    loaded = held(tiny("llama"))
    loaded.model.model.layers[1].mlp = torch.nn.Identity()
    with pytest.raises(NotApplicable, match=r"layer 1 has no FFN of a known layout \(mlp.gate_proj"):
        apply_control(loaded, control, plan=Plan(layers=(0, 1)), prompts=asked("w40", "w41"))
    loaded.model.model.layers[1].mlp = tiny("llama").model.layers[1].mlp
    assert changed(tiny("llama"), loaded.model) == []


@pytest.mark.parametrize("control", REWRITES)
@pytest.mark.parametrize("name", sorted({*MIXTURES} - {"gpt-oss"}))
def test_rewritten_mixture_says_the_same(name, control, tiny, batch_of, *, rewritten, changed):
    """All experts of a layer are rewritten, each by itself, and those that every token passes."""
    model, inputs = tiny(name), batch_of(6, 4).inputs()
    other = rewritten(model, control, layers=(1,))
    torch.testing.assert_close(other(**inputs).logits, model(**inputs).logits, **CLOSE)
    altered = changed(model, other)
    assert any("experts.down_proj" in parameter for parameter in altered)
    assert any("shared" in parameter for parameter in altered) == (name not in {"mixtral", "qwen3-moe", "olmoe"})


def test_permuted_gpt_oss_says_the_same(tiny, batch_of, rewritten):
    """Its gate and up rows alternate, and have biases."""
    model, inputs = tiny("gpt-oss"), batch_of(6, 4).inputs()
    other = rewritten(model, "rewrite-permuted", layers=(1,))
    assert not torch.equal(
        other.model.layers[1].mlp.experts.gate_up_proj, model.model.layers[1].mlp.experts.gate_up_proj
    )
    torch.testing.assert_close(other(**inputs).logits, model(**inputs).logits, **CLOSE)


def test_gpt_oss_cannot_be_rescaled(tiny, held, asked, changed):
    """It limits the up projection and adds 1: a factor makes another function."""
    loaded = held(tiny("gpt-oss"))
    with pytest.raises(NotApplicable, match="FFN of layer 1 has no gate product"):
        apply_control(loaded, "rewrite-rescaled", plan=Plan(layers=(1,)), prompts=asked("w40", "w41"))
    assert changed(tiny("gpt-oss"), loaded.model) == []


def _layer(model):
    return model.model.layers[0].mlp
