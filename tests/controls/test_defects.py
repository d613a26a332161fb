"""Each defect does what its name says, to the weights that it names and no others."""

import pytest
import torch

from pytest_quantcheck.controls.applying import apply_control
from pytest_quantcheck.controls.catalogue import CONTROLS
from pytest_quantcheck.controls.defects import BITS
from pytest_quantcheck.controls.packing import GROUP, pack
from pytest_quantcheck.errors import NotApplicable
from pytest_quantcheck.measuring import Plan
from tests.tiny_models import MIXTURES

DEFECTS = [name for name, control in CONTROLS.items() if control.kind == "defect" and name != "four-bit-router"]
"""Those of every model; a router only mixtures of experts have."""
ATTENTION = tuple(f"self_attn.{name}_proj.weight" for name in "qkvo")
FFN = tuple(f"mlp.{name}_proj.weight" for name in ("gate", "up", "down"))
ALTERED = {
    "constant-projection": ([1], ["mlp.gate_proj.weight"]),
    "wrong-scales": ([1], [*ATTENTION, *FFN]),
    "shifted-scales": ([0, 1, 2], [*ATTENTION, *FFN]),
    "two-bit-layer": ([1], [*ATTENTION, *FFN]),
    "swapped-layers": ([0, 2], [*ATTENTION, *FFN, "input_layernorm.weight", "post_attention_layernorm.weight"]),
    "dropped-zero-points": ([0, 1, 2], [*ATTENTION, *FFN]),
    "zeroed-rows": ([0, 1, 2], ["mlp.gate_proj.weight"]),
    "duplicated-rows": ([0, 1, 2], ["mlp.gate_proj.weight", "mlp.up_proj.weight"]),
    "other-fine-tune": ([2], ["mlp.down_proj.weight"]),
    "three-bits": ([0, 1, 2], [*ATTENTION, *FFN]),
}
SHARES = ["constant-projection", "shifted-scales", "dropped-zero-points", "zeroed-rows", "duplicated-rows"]
NUMBERS = ["two-bit-layer", "swapped-layers", "other-fine-tune", "three-bits"]


@pytest.fixture
def damaged(held, asked):
    """Damages a copy of a model; the measured layers are all three."""

    def damage(model, defect, severity=None, *, layers=(0, 1, 2), golds=("w40", "w41"), dtype=torch.float32):
        loaded = held(model, dtype)
        apply_control(loaded, defect, plan=Plan(layers=layers), prompts=asked(*golds), severity=severity)
        return loaded.model

    return damage


@pytest.fixture
def weights(tiny, damaged):
    """A weight of layer 1 of a Llama, before and after a defect."""

    def pair(defect, severity, name):
        model = tiny("llama")
        return [m.get_parameter(f"model.layers.1.{name}").data for m in (model, damaged(model, defect, severity))]

    return pair


def by_group(weight):
    """Rows and groups of inputs, (out, groups, 64)."""
    return weight.unflatten(1, (-1, GROUP))


@pytest.mark.parametrize("defect", ALTERED)
def test_only_what_is_named_changes(defect, tiny, damaged, changed):
    """Of the measured layers the middle one, or all of the model's, and in them these weights."""
    layers, names = ALTERED[defect]
    expected = {f"model.layers.{layer}.{name}" for layer in layers for name in names}
    assert set(changed(tiny("llama"), damaged(tiny("llama"), defect))) == expected


@pytest.mark.parametrize("defect", ["constant-projection", "wrong-scales", "two-bit-layer"])
def test_layer_is_the_middle_one_of_the_measured(defect, tiny, damaged, changed):
    """Of layers 1 and 2 the first of the two, as the middle of the model is chosen."""
    names = changed(tiny("llama"), damaged(tiny("llama"), defect, layers=(2, 1)))
    assert {name.split(".")[2] for name in names} == {"1"}


def test_constant_projection_is_constant_in_each_group(weights):
    """Half of the rows hold one value a group, the other half what 8 bits leave of them."""
    before, after = weights("constant-projection", 0.5, "mlp.gate_proj.weight")
    groups = by_group(after[:64])
    assert torch.equal(groups, groups[..., :1].expand_as(groups))
    assert 0.3 < after[:64].mean() / before.abs().mean() < 3  # of the size that weights have
    assert torch.equal(after[64:], pack(before, BITS).weight()[64:])


def test_wrong_scales_are_wrong_by_the_factor(weights):
    """What 8 bits leave of the weights, times 1.5."""
    before, after = weights("wrong-scales", 1.5, "self_attn.q_proj.weight")
    torch.testing.assert_close(after, 1.5 * pack(before, BITS).weight())


def test_shifted_scales_are_the_neighbours(weights):
    """In half of the rows each group has the scale of the one before it, the first that of the last."""
    before, after = weights("shifted-scales", 0.5, "mlp.down_proj.weight")
    packed = pack(before, BITS)
    expected = packed.codes[:32] * packed.scales[:32].flip(1)  # of two groups
    assert torch.equal(by_group(after[:32]), expected)
    assert torch.equal(after[32:], packed.weight()[32:])


def test_two_bits_leave_three_values(weights):
    """In each group: none, one step up and one down."""
    _, after = weights("two-bit-layer", 2, "mlp.up_proj.weight")
    assert max(len(group.unique()) for group in by_group(after).flatten(0, 1)) == 3


def test_swapped_layers_are_in_each_others_place(tiny, damaged):
    """Two places apart, norms too."""
    before, after = (m.model.layers for m in (tiny("llama"), damaged(tiny("llama"), "swapped-layers", 2)))
    for here, there in ((0, 2), (1, 1), (2, 0)):
        for name, weight in before[here].state_dict().items():
            assert torch.equal(weight, after[there].state_dict()[name])


def test_swapping_needs_two_layers_that_far_apart(tiny, damaged):
    """Of three layers none are three apart."""
    with pytest.raises(NotApplicable, match="has 3 layers, and no two are 3 apart"):
        damaged(tiny("llama"), "swapped-layers", 3)


def test_swapping_needs_layers_of_one_kind(tiny, damaged):
    """A mixture of experts cannot stand in a dense layer's place."""
    with pytest.raises(NotApplicable, match="layers 1 and 2 have different weights"):
        damaged(tiny("half-mixture"), "swapped-layers", 1)


def test_dropped_zero_points_shift_each_group(weights):
    """Every weight of a group moves by one amount, as far as its zero point was from the middle."""
    before, after = weights("dropped-zero-points", 0.25, "mlp.down_proj.weight")
    packed = pack(before, BITS, symmetric=False)
    moved = by_group(after - packed.weight())[:16]
    expected = ((packed.zeros - 128) * packed.scales)[:16]
    assert expected.abs().max() > 0.1 * before.std()
    torch.testing.assert_close(moved, expected.expand_as(moved), rtol=1e-4, atol=1e-6)  # a difference of float32
    assert torch.equal(after[16:], packed.weight()[16:])


def test_zeroed_rows_are_neurons_that_die(weights):
    """An eighth of the rows is zero, the rest as before."""
    before, after = weights("zeroed-rows", 0.125, "mlp.gate_proj.weight")
    assert not after[:16].any()
    assert torch.equal(after[16:], before[16:])


@pytest.mark.parametrize(
    ("name", "path"), [("gpt2", "transformer.h.1.mlp.c_fc"), ("opt", "model.decoder.layers.1.fc1")]
)
def test_zeroed_rows_take_their_biases_along(name, path, tiny, damaged):
    """A neuron whose bias stays is not dead; GPT-2 stores what feeds a neuron as a column."""
    module = damaged(tiny(name), "zeroed-rows", 0.125).get_submodule(path)
    rows = module.weight.t() if name == "gpt2" else module.weight
    assert not rows[:16].any()
    assert not module.bias[:16].any()
    assert rows[16:].any(dim=1).all()


@pytest.mark.parametrize("name", ["mlp.gate_proj.weight", "mlp.up_proj.weight"])
def test_duplicated_rows_are_copies(name, weights):
    """The last eighth is the first."""
    before, after = weights("duplicated-rows", 0.125, name)
    assert torch.equal(after[-16:], before[:16])
    assert torch.equal(after[:-16], before[:-16])


def test_more_than_half_of_the_rows_cannot_be_copies(tiny, damaged):
    """A copy needs an original."""
    with pytest.raises(ValueError, match=r"up to 0\.5"):
        damaged(tiny("llama"), "duplicated-rows", 0.6)


@pytest.mark.parametrize("name", ["llama", "llama-tied", "gemma", "phi", "gpt2", "opt"])
def test_sharpened_logits_are_twice_as_large(name, tiny, damaged, batch_of):
    """Exactly, for a factor of 2, whether the head has a bias, shares the embedding or neither."""
    inputs = batch_of(6, 4).inputs()
    assert torch.equal(damaged(tiny(name), "sharpened-logits", 2)(**inputs).logits, 2 * tiny(name)(**inputs).logits)


def test_sharpening_leaves_the_embedding_alone(tiny, damaged, changed):
    """Where the head shares the embedding's weights it gets its own."""
    assert changed(tiny("llama-tied"), damaged(tiny("llama-tied"), "sharpened-logits")) == ["lm_head.weight"]


def test_sharpening_needs_a_head(held, asked, tiny, monkeypatch):
    """A model without linear output head has no logits to multiply."""
    loaded = held(tiny("llama"))
    monkeypatch.setattr(loaded.model, "get_output_embeddings", lambda: None)
    with pytest.raises(NotApplicable, match="no linear output head"):
        apply_control(loaded, "sharpened-logits", plan=Plan(layers=(0,)), prompts=asked("w40"))


def test_other_fine_tune_gives_other_answers(held, asked, tiny):
    """What was taught grows more probable with every step."""
    losses, prompts = [], asked("w40", "w41")
    for steps in (1, 4, 16):
        _, done = apply_control(held(tiny("llama")), "other-fine-tune", plan=Plan(), prompts=prompts, severity=steps)
        losses.append(float(done.partition("last loss ")[2].split()[0]))
    assert losses[0] > losses[1] > losses[2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_fine_tune_leaves_no_gradients(dtype, tiny, damaged):
    """Weights are of the dtype they were of, need no gradient and have none."""
    for parameter in damaged(tiny("llama-tied"), "other-fine-tune", dtype=dtype).parameters():
        assert (parameter.dtype, parameter.requires_grad, parameter.grad) == (dtype, False, None)


def test_other_fine_tune_needs_another_answer(tiny, damaged, changed):
    """Where all gold answers are one there is nothing else to teach."""
    with pytest.raises(NotApplicable, match="gold answers of words all begin with the same token"):
        damaged(tiny("llama"), "other-fine-tune", golds=("w40", "w40"))


def test_rounding_leaves_embeddings_and_head(tiny, damaged):
    """Tied ones too."""
    model = tiny("llama-tied")
    assert torch.equal(damaged(model, "three-bits").lm_head.weight, model.lm_head.weight)


def distance(before, after):
    """How far the weights have moved."""
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    return float(sum((a - b).square().sum() for a, b in pairs).sqrt())


@pytest.mark.parametrize("defect", sorted({*DEFECTS} - {"swapped-layers", "sharpened-logits"}))
def test_grades_begin_with_the_mildest(defect, tiny, damaged):
    """Each grade moves the weights further than the one before; the default is one of them."""
    moved = [distance(tiny("llama"), damaged(tiny("llama"), defect, grade)) for grade in CONTROLS[defect].grades]
    assert moved == sorted(set(moved))
    assert moved[0] > 0
    assert CONTROLS[defect].severity in CONTROLS[defect].grades


@pytest.mark.parametrize("defect", DEFECTS)
def test_same_arguments_give_the_same_weights(defect, tiny, damaged, changed):
    """Bit for bit."""
    first, again = (damaged(tiny("llama"), defect) for _ in range(2))
    assert changed(first, again) == []


@pytest.mark.ci
@pytest.mark.parametrize("defect", DEFECTS)
def test_every_architecture_can_be_damaged(defect, model, damaged, batch_of):
    """Whatever the layout, the model says something else, and something finite."""
    inputs = batch_of(6, 4).inputs()
    logits = damaged(model, defect)(**inputs).logits
    assert logits.isfinite().all()
    assert (logits - model(**inputs).logits).abs().max() > 0.01


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("defect", DEFECTS)
def test_dtype_is_kept(defect, dtype, tiny, damaged):
    """What was computed in float32 is rounded to the model's own format."""
    assert {parameter.dtype for parameter in damaged(tiny("llama"), defect, dtype=dtype).parameters()} == {dtype}


@pytest.mark.parametrize("severity", [1.5, 0.5, 0])
@pytest.mark.parametrize("defect", NUMBERS)
def test_number_must_be_whole(defect, severity, tiny, damaged):
    """Bits, steps and distances are counted."""
    with pytest.raises(ValueError, match=r"whole number|positive number"):
        damaged(tiny("llama"), defect, severity)


@pytest.mark.parametrize("defect", SHARES)
def test_share_cannot_be_more_than_all(defect, tiny, damaged):
    """A share is above 0 and at most 1."""
    with pytest.raises(ValueError, match="share of rows"):
        damaged(tiny("llama"), defect, 1.5)


def test_router_alone_is_rounded(tiny, damaged, changed):
    """In each layer, to the points of a 4-bit grid; the experts stay as they are."""
    model = tiny("mixtral")
    rounded = damaged(model, "four-bit-router")
    assert changed(model, rounded) == [f"model.layers.{layer}.mlp.gate.weight" for layer in range(3)]
    for layer in range(3):
        before, after = (one.get_parameter(f"model.layers.{layer}.mlp.gate.weight") for one in (model, rounded))
        assert torch.equal(after, pack(before, 4).weight())


def test_grades_of_routers_begin_with_the_mildest(tiny, damaged):
    """As of the other defects."""
    grades = CONTROLS["four-bit-router"].grades
    moved = [distance(tiny("mixtral"), damaged(tiny("mixtral"), "four-bit-router", grade)) for grade in grades]
    assert moved == sorted(set(moved))
    assert CONTROLS["four-bit-router"].severity in grades


@pytest.mark.parametrize("name", MIXTURES)
def test_every_router_is_found(name, tiny, damaged, batch_of):
    """Of every kind of mixture; the model says something else."""
    inputs = batch_of(6, 4).inputs()
    logits = damaged(tiny(name), "four-bit-router", 2, layers=(1,))(**inputs).logits
    assert logits.isfinite().all()
    assert (logits - tiny(name)(**inputs).logits).abs().max() > 1e-3


def test_dense_model_has_no_router(tiny, damaged):
    """The control has nothing to say."""
    with pytest.raises(NotApplicable, match="the model is no mixture of experts"):
        damaged(tiny("llama"), "four-bit-router")


OF_EXPERTS = {
    "constant-projection": {1: ["gate_up_proj"]},
    "wrong-scales": {1: ["gate_up_proj", "down_proj"]},
    "two-bit-layer": {1: ["gate_up_proj", "down_proj"]},
    "dropped-zero-points": {layer: ["gate_up_proj", "down_proj"] for layer in range(3)},
    "zeroed-rows": {layer: ["gate_up_proj"] for layer in range(3)},
    "duplicated-rows": {layer: ["gate_up_proj"] for layer in range(3)},
    "three-bits": {layer: ["gate_up_proj", "down_proj"] for layer in range(3)},
}


@pytest.mark.parametrize("defect", OF_EXPERTS)
def test_every_expert_is_damaged(defect, tiny, damaged):
    """In the layers of which the defect is, and only in the parts that it is of."""
    model = tiny("mixtral")
    other = damaged(model, defect)
    for layer in range(3):
        before, after = (one.model.layers[layer].mlp.experts for one in (model, other))
        for name in ("gate_up_proj", "down_proj"):
            moved = (getattr(before, name) != getattr(after, name)).flatten(1).any(dim=1)
            expected = name in OF_EXPERTS[defect].get(layer, [])
            assert moved.tolist() == [expected] * 4, (layer, name)


def test_experts_are_trained(tiny, damaged, changed):
    """Those of the last layer that a prompt's tokens reach."""
    assert changed(tiny("mixtral"), damaged(tiny("mixtral"), "other-fine-tune")) == [
        "model.layers.2.mlp.experts.down_proj"
    ]


def test_experts_are_rounded_as_matrices(tiny, damaged):
    """Of gpt-oss too, which stores them transposed: groups are of inputs."""
    for name, transposed in (("mixtral", False), ("gpt-oss", True)):
        before, after = (
            one.model.layers[1].mlp.experts.down_proj.data[2] for one in (tiny(name), damaged(tiny(name), "three-bits"))
        )
        matrix = before.t() if transposed else before
        expected = pack(matrix, 3).weight()
        assert torch.equal(after, expected.t() if transposed else expected)


def test_interleaved_rows_are_those_of_the_gate(tiny, damaged):
    """gpt-oss alternates gate and up: every second row of the first is zeroed, with its bias."""
    model = tiny("gpt-oss")
    before, after = (one.model.layers[0].mlp.experts for one in (model, damaged(model, "zeroed-rows", 0.25)))
    rows = after.gate_up_proj.data.transpose(1, 2)
    assert not rows[:, :24:2].any()
    assert not after.gate_up_proj_bias[:, :24:2].any()
    assert torch.equal(rows[:, 1::2], before.gate_up_proj.data.transpose(1, 2)[:, 1::2])
    assert torch.equal(rows[:, 24:], before.gate_up_proj.data.transpose(1, 2)[:, 24:])
