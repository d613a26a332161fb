"""Layouts whose names are not known are found by what they compute."""

import copy
import itertools

import pytest
import torch

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.models.architectures import FFNS
from pytest_quantcheck.models.neurons import find_decoder, find_neurons
from pytest_quantcheck.models.partial_forward import PartialForward
from pytest_quantcheck.models.tracing import trace_layout
from tests.tiny_models import CONFIGS, MIXTURES, TRACED


def trace(model):
    """The layout, as if no name were known."""
    return trace_layout(model, find_decoder(model))


@pytest.mark.parametrize("name", CONFIGS | MIXTURES)
def test_tracing_finds_what_the_names_say(tiny, name):
    """In every architecture that is known by names: blocks, activation functions and projections."""
    model = tiny(name)
    layout, neurons = trace(model), find_neurons(model)
    blocks = find_decoder(model).get_submodule(layout.blocks)
    assert tuple(blocks) == neurons.blocks
    dense = [layer for layer in range(3) if layer not in neurons.mixtures]
    for layer in dense:
        assert blocks[layer].get_submodule(layout.activation) is neurons.activation(layer)
        names = dict(blocks[layer].named_modules())
        assert layout.ffn == next(ffn for ffn in FFNS if names.keys() >= set(filter(None, ffn)))
    assert layout.activation or not dense


@pytest.mark.parametrize("name", TRACED)
def test_neurons_of_a_traced_layout_are_what_the_down_projection_reads(tiny, batch_of, name):
    """Themselves, or multiplied with what the up projection gives."""
    model = tiny(name)
    neurons = find_neurons(model)
    gate, up, down = neurons.traced
    seen = {}

    def keep(key):
        return lambda _module, args, output: seen.update({key: (args[0], output)})

    for layer, block in enumerate(neurons.blocks):
        modules = {"neurons": neurons.activation(layer), "gate": block.get_submodule(gate)}
        modules |= {"down": block.get_submodule(down)} | ({"up": block.get_submodule(up)} if up else {})
        handles = [module.register_forward_hook(keep(key)) for key, module in modules.items()]
        model(**batch_of(5, 4).inputs())
        for handle in handles:
            handle.remove()
        factor = seen["up"][1] if up else 1
        torch.testing.assert_close(seen["neurons"][1] * factor, seen["down"][0])
        torch.testing.assert_close(seen["neurons"][0], seen["gate"][1])


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("name", TRACED)
def test_attributions_of_a_traced_layout_are_shortened(tiny, batch_of, name, layer):
    """What follows its blocks is known by name; a path gives the model's answer for prompts in any order and number."""
    model, batch = tiny(name), batch_of(7, 4, 6)
    target = torch.tensor([5, 6, 7])
    own = model(**batch.inputs()).logits[:, -1].log_softmax(-1).gather(1, target[:, None])[:, 0]
    forward = PartialForward(model, find_neurons(model), [layer], batch, target)
    first, *_, whole = forward.paths(layer, torch.zeros_like(forward.neurons[layer]))
    assert not first.whole
    rows = torch.tensor([2, 0, 0, 1, 2])
    for path in (first, whole):
        torch.testing.assert_close(path.log_probs(path.end[rows], rows), own[rows], atol=2e-5, rtol=2e-5)


def test_bias_by_head_is_not_taken_for_one_by_prompt(tiny, batch_of):
    """MPT's has as many rows as there are heads: with four prompts, the whole model is attributed."""
    model, batch = tiny("mpt"), batch_of(5, 3, 4, 6)
    neurons = find_neurons(model)
    forward = PartialForward(model, neurons, [1], batch, torch.tensor([5, 6, 7, 8]))
    (path,) = forward.paths(1, torch.zeros_like(forward.neurons[1]))
    assert path.whole


REASONS = {
    "bert": r"^BertLMHeadModel: a token's answer depends on later tokens \(.*is_decoder in config\.json\)",
    "mamba": "^MambaForCausalLM: no FFN was found: no block has an activation function",
    "openai-gpt": "^OpenAIGPTLMHeadModel: its blocks share one activation module",
    "hrm": "^HrmTextForCausalLM: its blocks run several times for one token",
}


@pytest.mark.parametrize("name", REASONS)
def test_what_is_no_chain_of_blocks_is_refused(tiny, name):
    """In a sentence of its own for each reason."""
    with pytest.raises(ModelError, match=REASONS[name]):
        find_neurons(tiny(name))


def test_small_functions_beside_the_ffn_are_passed_over(tiny):
    """A narrow gate between two projections of attention is elementwise too."""
    model = copy.deepcopy(tiny("llama"))
    for block in model.model.layers:
        block.self_attn.o_proj = torch.nn.Sequential(
            torch.nn.Linear(64, 32), torch.nn.Tanh(), torch.nn.Linear(32, 64)
        ).requires_grad_(False)
    assert trace(model).activation == "mlp.act_fn"


def test_two_ffns_in_a_block_are_refused(tiny):
    """One would stand for both."""
    model = copy.deepcopy(tiny("llama"))
    for block in model.model.layers:
        block.self_attn.o_proj = torch.nn.Sequential(
            torch.nn.Linear(64, 128), torch.nn.Tanh(), torch.nn.Linear(128, 64)
        ).requires_grad_(False)
    with pytest.raises(ModelError, match=r"several FFNs, and one was expected: mlp\.act_fn and self_attn\.o_proj\.1$"):
        trace(model)


@pytest.mark.parametrize("between", [torch.nn.Dropout(), torch.nn.LayerNorm(64), torch.nn.Identity()])
def test_norms_and_dropout_between_projections_are_no_activation(tiny, between):
    """What is not elementwise, and what does nothing."""
    model = copy.deepcopy(tiny("llama"))
    for block in model.model.layers:
        block.mlp = (
            torch.nn.Sequential(torch.nn.Linear(64, 64), between, torch.nn.Linear(64, 64)).requires_grad_(False).eval()
        )
    with pytest.raises(ModelError, match="no FFN was found"):
        trace(model)


def test_projections_of_which_the_gate_comes_last_are_not_named(tiny):
    """Writing to them would alter the other half."""
    model = copy.deepcopy(tiny("phi3"))

    def turned(mlp):
        def forward(hidden):
            up, gate = mlp.gate_up_proj(hidden).chunk(2, dim=-1)
            return mlp.down_proj(up * mlp.activation_fn(gate))

        return forward

    for block in model.model.layers:
        block.mlp.forward = turned(block.mlp)
    assert trace(model).activation == "mlp.activation_fn"
    assert trace(model).ffn is None


def test_a_model_that_does_not_answer_two_tokens_is_refused(tiny):
    """With the error that it gave."""
    model = copy.deepcopy(tiny("bloom"))

    def fail(*_args, **_kwargs):
        raise ValueError("Input language unknown.")

    model.forward = fail
    with pytest.raises(ModelError, match=r"does not answer two tokens.*: ValueError: Input language unknown\. Name"):
        find_neurons(model)


def test_no_hook_is_left_behind(tiny):
    """After tracing, every module is as it was."""
    model = tiny("bloom")
    trace(model)
    hooks = itertools.chain.from_iterable(module._forward_hooks for module in model.modules())
    assert list(hooks) == []
