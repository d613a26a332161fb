"""FFN neurons are found where they are, and what cannot be found is explained."""

import copy

import pytest
import torch

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.models.neurons import choose_layers, find_neurons, is_rectified, parts_outside_text
from pytest_quantcheck.models.partial_forward import PartialForward
from tests.tiny_models import CONFIGS, MIXTURES


def test_every_block_gives_its_ffn_neurons(model, batch_of):
    """For each architecture, each block's module answers with the width of the FFN."""
    neurons = find_neurons(model)
    seen = []
    handles = [neurons.activation(i).register_forward_hook(lambda _m, _a, out: seen.append(out)) for i in range(3)]
    model(**batch_of(5, 5).inputs())
    for handle in handles:
        handle.remove()
    assert [tuple(output.reshape(2, 5, -1).shape) for output in seen] == [(2, 5, 128)] * 3


def test_neurons_are_what_the_down_projection_reads(tiny, batch_of):
    """Without a gate, the found module's output is the input of the FFN's second matrix."""
    model = tiny("opt")
    block = model.model.decoder.layers[1]
    found, read = [], []
    handles = [
        find_neurons(model).activation(1).register_forward_hook(lambda _m, _a, output: found.append(output)),
        block.fc2.register_forward_pre_hook(lambda _m, args: read.append(args[0])),
    ]
    model(**batch_of(4).inputs())
    for handle in handles:
        handle.remove()
    assert torch.equal(found[0], read[0])


PARTS = {
    "gemma3": {"model.vision_tower", "model.multi_modal_projector"},
    "mistral3": {"model.vision_tower", "model.multi_modal_projector"},
    "qwen2.5-vl": {"model.visual"},
    "qwen3-vl": {"model.visual"},
    "llama4-vision": {"vision_model", "multi_modal_projector"},
}


@pytest.mark.parametrize("name", CONFIGS | MIXTURES)
def test_parts_that_text_does_not_reach_are_told(tiny, batch_of, name):
    """Their weights decide nothing of an answer; all others that matter do, and text models have no such part."""
    model = tiny(name)
    parts = parts_outside_text(model)
    assert parts.keys() == PARTS.get(name, set())
    assert all(size == sum(p.numel() for p in model.get_submodule(part).parameters()) for part, size in parts.items())
    answer = model(**batch_of(5).inputs()).logits
    damaged = copy.deepcopy(model)
    for part in parts:
        for parameter in damaged.get_submodule(part).parameters():
            parameter.data.zero_()
    assert torch.equal(damaged(**batch_of(5).inputs()).logits, answer)


@pytest.mark.parametrize(("name", "rectified"), [("opt", True), ("llama", False), ("gpt2", False), ("gemma", False)])
def test_only_relu_is_rectified(tiny, name, rectified):
    """OPT's ReLU is exactly 0 when off, SiLU and GELU are not."""
    assert is_rectified(find_neurons(tiny(name)).activation(0)) is rectified


def test_unknown_layout_names_modules_and_option(tiny):
    """The error lists what the first block has, and how to point at it."""
    with pytest.raises(ModelError) as caught:
        find_neurons(tiny("mamba"))
    text = str(caught.value)
    assert "MambaForCausalLM" in text
    assert "backbone.layers.0.mixer.act" in text
    assert "backbone.layers.1" not in text
    assert "--quantcheck-neurons" in text


def test_pattern_points_at_the_neurons_of_an_unknown_layout(tiny, batch_of):
    """With a pattern an unknown architecture is attributed too, through the whole model."""
    model, batch = tiny("bloom"), batch_of(6, 4)
    neurons = find_neurons(model, "transformer.h.{}.mlp.gelu_impl")
    forward = PartialForward(model, neurons, [1], batch, torch.tensor([5, 6]))
    (path,) = forward.paths(1, torch.zeros_like(forward.neurons[1]))
    own = model(**batch.inputs()).logits[:, -1].log_softmax(-1)[[0, 1], [5, 6]]
    assert path.whole
    assert path.end.shape == (2, 6, 256)
    torch.testing.assert_close(path.log_probs(path.end, torch.arange(2)), own)


@pytest.mark.parametrize(
    "pattern",
    [
        "model.layers.0.mlp.act_fn",
        "model.layers.{}.mlp.nothing",
        "model.nowhere.{}.act",
        "model.{}.mlp",
        "model.layers.{}.{x}",
        "{}",
    ],
)
def test_pattern_that_matches_nothing_is_an_error(tiny, pattern):
    """A pattern without a place for the number, or that leads nowhere, is named in the error."""
    with pytest.raises(ModelError, match=r"--quantcheck-neurons=.* matches no module"):
        find_neurons(tiny("llama"), pattern)


def test_pattern_at_experts_is_an_error(tiny, batch_of):
    """A module that runs once for each expert, on some tokens, gives no neuron per token."""
    model = tiny("mixtral")
    neurons = find_neurons(model, "model.layers.{}.mlp.experts.act_fn")
    with pytest.raises(ModelError, match="to run once, on every token"):
        PartialForward(model, neurons, [0], batch_of(6, 4), torch.tensor([5, 6]))


def test_layer_without_neurons_is_an_error(tiny):
    """A pattern that only some blocks match: the others cannot be measured."""
    neurons = find_neurons(tiny("half-mixture"), "model.layers.{}.mlp.act_fn")
    assert neurons.activation(0) is not None
    with pytest.raises(ModelError, match=r"layer 1 has no FFN activation.*--quantcheck-layers: 0, 2$"):
        neurons.activation(1)


def test_mixture_whose_experts_are_not_known_is_not_measured_in_part(tiny):
    """A list of modules, as code of a checkpoint's own has it: the shared expert alone does not stand for the block."""
    model = copy.deepcopy(tiny("half-mixture"))
    mixture = model.model.layers[1].mlp
    mixture.experts = torch.nn.ModuleList([copy.deepcopy(mixture.shared_expert) for _ in range(8)])
    with pytest.raises(ModelError, match=r"layer 1 has no FFN activation.*--quantcheck-layers: 0, 2$"):
        find_neurons(model).check(1)


@pytest.mark.parametrize(
    ("layers", "n_layers", "expected"),
    [
        ("paper", 32, (0, 15, 31)),
        ("paper", 3, (0, 1, 2)),
        ("paper", 2, (0, 1)),
        ("paper", 1, (0,)),
        ("all", 3, (0, 1, 2)),
        ([2, 0, 2], 3, (0, 2)),
        ([-1, 2], 3, (2,)),
        (["-3"], 3, (0,)),
    ],
)
def test_layers_are_chosen_by_word_or_number(layers, n_layers, expected):
    """`paper` is first, middle and last; numbers are sorted, may count from the end, and come once."""
    assert choose_layers(layers, n_layers) == expected


@pytest.mark.parametrize("wrong", [3, -4])
def test_layer_that_does_not_exist_is_an_error(wrong):
    """The error gives the range and the wrong number."""
    with pytest.raises(ModelError, match=f"layers 0 to 2, and {wrong} is none"):
        choose_layers([0, wrong], 3)
