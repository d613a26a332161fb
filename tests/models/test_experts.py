"""The neurons of routed experts are those that each token's experts compute, and can be replaced."""

import copy
from functools import partial

import pytest
import torch

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.models.encoding import collate
from pytest_quantcheck.models.experts import find_router
from pytest_quantcheck.models.neurons import find_neurons
from pytest_quantcheck.models.partial_forward import PartialForward
from pytest_quantcheck.models.watching import replace_neurons, run_with_neurons
from tests.tiny_models import MIXTURES, make

MIXED = {"mixtral": (0, 1, 2), "qwen3-moe": (0, 1, 2), "half-mixture": (1,), "olmoe": (0, 1, 2), "gpt-oss": (0, 1, 2)}
MIXED |= {"deepseek-v3": (1, 2), "llama4": (1,), "llama4-vision": (1,)}
ROUNDING = {"rtol": 2e-5, "atol": 2e-5}
"""Float32 sums of some 100 products in another order: a few of their last bits, 2^-23 of values of about 10."""

WITH_SHARED = {"half-mixture", "deepseek-v3", "llama4", "llama4-vision"}


@pytest.fixture(params=MIXTURES)
def mixture(request):
    """One model of every kind of mixture."""
    return make(request.param)


def name_of(model):
    """Which of the mixtures it is."""
    return next(name for name in MIXTURES if make(name) is model)


def by_definition(model, layer, batch):
    """Each token's experts and their neurons, token by token from the weights, in float64."""
    block = find_neurons(model).blocks[layer]
    ffn = getattr(block, "feed_forward", None) or block.mlp
    seen = {}
    handle = ffn.register_forward_pre_hook(lambda _m, args: seen.update(hidden=args[0]))
    router = getattr(ffn, "router", None) or ffn.gate
    chose = router.register_forward_hook(lambda _m, _a, output: seen.update(routed=output))
    model(**batch.inputs())
    handle.remove()
    chose.remove()
    experts, found = ffn.experts, {}
    for token, hidden in enumerate(seen["hidden"].flatten(0, 1).double()):
        x = hidden
        if name_of(model).startswith("llama4"):
            chosen = seen["routed"][1][token].topk(1).indices
            x = hidden * seen["routed"][1][token].double().sigmoid()[chosen]
        else:
            chosen = seen["routed"][2][token]
        for expert in chosen.tolist():
            weight = experts.gate_up_proj[expert].double()
            if name_of(model) == "gpt-oss":
                gate = (x @ weight + experts.gate_up_proj_bias[expert].double())[::2].clamp(max=experts.limit)
                found[token, expert] = gate / (1 + (-experts.alpha * gate).exp())
                continue
            gate = (x @ weight if name_of(model).startswith("llama4") else weight @ x).chunk(2)[0]
            found[token, expert] = gate / (1 + (-gate).exp())
    return found


def test_each_expert_shows_the_neurons_of_its_tokens(mixture, batch_of):
    """Padding is a token like another to the model; what is seen changes nothing."""
    batch = batch_of(6, 3)
    own = mixture(**batch.inputs()).logits
    neurons = find_neurons(mixture)
    assert tuple(sorted(neurons.mixtures)) == MIXED[name_of(mixture)]
    for layer, experts in neurons.mixtures.items():
        seen, routes = {}, []
        with experts.watch(lambda *call, to=seen: keep(to, *call), routes.append):
            assert torch.equal(mixture(**batch.inputs()).logits, own)
        expected = by_definition(mixture, layer, batch)
        assert seen.keys() == expected.keys()
        assert all(torch.allclose(seen[key].double(), expected[key], **ROUNDING) for key in expected)
        (chosen,) = routes
        assert {(token, expert) for token in range(12) for expert in chosen[token].tolist()} == expected.keys()


def keep(found, expert, tokens, place, values):
    """Keep what a watcher is called with, token by token."""
    del place
    for token, row in zip(tokens.tolist(), values, strict=True):
        found[token, expert] = row


def test_neurons_that_every_token_passes_are_beside_the_experts(mixture):
    """Of dense blocks, and of shared experts."""
    neurons = find_neurons(mixture)
    for layer in range(3):
        shared = layer not in neurons.mixtures or name_of(mixture) in WITH_SHARED
        assert (neurons.activations[layer] is not None) == shared


def test_router_is_found(mixture):
    """Its rows stand for the experts."""
    neurons = find_neurons(mixture)
    for layer, experts in neurons.mixtures.items():
        router = find_router(neurons.blocks[layer], experts)
        assert router.name.rpartition(".")[2] in {"gate", "router"}
        assert router.weight.shape == (experts.n_experts, 64)


def test_own_neurons_put_in_place_change_nothing(mixture, batch_of):
    """And others do."""
    batch, neurons = batch_of(6, 3), find_neurons(mixture)
    own = mixture(**batch.inputs()).logits[:, -1]
    for layer in neurons.mixtures:
        values, _, logits = run_with_neurons(mixture, neurons, [layer], batch)
        torch.testing.assert_close(logits, own)
        with replace_neurons(neurons, layer, values[layer]):
            torch.testing.assert_close(mixture(**batch.inputs()).logits[:, -1], own)
        with replace_neurons(neurons, layer, values[layer] * 0.5):
            assert not torch.allclose(mixture(**batch.inputs()).logits[:, -1], own, atol=1e-3)


@pytest.mark.parametrize("name", ["mixtral", "half-mixture"])
def test_neurons_at_zero_are_an_expert_without_output(name, batch_of):
    """As if the down projections of all experts, shared ones too, were zero."""
    model, batch = make(name), batch_of(6, 3)
    neurons = find_neurons(model)
    values, _, _ = run_with_neurons(model, neurons, [1], batch)
    with replace_neurons(neurons, 1, torch.zeros_like(values[1])):
        found = model(**batch.inputs()).logits
    emptied = copy.deepcopy(model)
    for parameter_name, parameter in emptied.get_decoder().layers[1].mlp.named_parameters():
        if "down_proj" in parameter_name:
            parameter.data.zero_()
    torch.testing.assert_close(found, emptied(**batch.inputs()).logits)


def test_every_path_ends_at_the_models_own_answer(mixture, batch_of):
    """From the blocks above, from the layer's own, and through the whole model."""
    batch, target = batch_of(7, 4), torch.tensor([5, 6])
    for layer in range(3):
        forward = PartialForward(mixture, find_neurons(mixture), [layer], batch, target)
        ways = list(forward.paths(layer, forward.start(layer, None)))
        assert ways[-1].whole
        for way in ways:
            torch.testing.assert_close(way.log_probs(way.end, torch.arange(2)), forward.log_probs, **ROUNDING)


def test_every_path_has_the_gradient_of_the_whole_model(mixture, batch_of):
    """At the end of the path, where no router is at a tie."""
    batch, target = batch_of(5, 5), torch.tensor([5, 6])
    for layer in range(3):
        forward = PartialForward(mixture, find_neurons(mixture), [layer], batch, target)
        *ways, whole = forward.paths(layer, forward.start(layer, None))
        expected = gradient(whole)
        assert expected.abs().max() > 1e-4
        for way in ways:
            found = gradient(way)
            if found.shape == expected.shape:
                torch.testing.assert_close(found, expected, **ROUNDING)


def gradient(way):
    """The gradient at the end of a path."""
    at = way.end.clone().requires_grad_()
    (slope,) = torch.autograd.grad(way.log_probs(at, torch.arange(2)).sum(), at)
    return slope


def test_attributions_are_spread_over_all_experts(mixture, batch_of):
    """Each token's go to its experts' neurons and count there alone; those that every token passes come last."""
    batch = batch_of(4, 2)
    neurons = find_neurons(mixture)
    layer = MIXED[name_of(mixture)][0]
    forward = PartialForward(mixture, neurons, [layer], batch, torch.tensor([5, 6]))
    values = forward.neurons[layer]
    chosen, experts = forward.routes[layer].chosen, neurons.mixtures[layer].n_experts
    for row, (spread, counts) in enumerate(forward.each_prompt(layer, values)):
        width = forward.routes[layer].width
        assert spread.shape == counts.shape
        shared = spread.shape[-1] - experts * width
        for token in range(4):
            for expert in range(experts):
                mine = slice(expert * width, (expert + 1) * width)
                places = (chosen[row, token] == expert).nonzero()[:, 0].tolist()
                real = bool(batch.real[row, token])
                assert (
                    bool(counts[0, token, mine].all()) == bool(counts[0, token, mine].any()) == (real and bool(places))
                )
                if places:
                    start = places[0] * width
                    assert torch.equal(spread[0, token, mine], values[row, token, start : start + width])
            if shared:
                assert torch.equal(spread[0, token, -shared:], values[row, token, -shared:])
                assert counts[0, token, -shared:].all() == batch.real[row, token]


def test_baseline_of_experts_is_zero(batch_of):
    """The baseline's tokens went to other experts; the neurons that every token passes have their own."""
    model = make("half-mixture")
    forward = PartialForward(model, find_neurons(model), [1], batch_of(4, 2), torch.tensor([5, 6]))
    width = forward.neurons[1].shape[-1]
    start = forward.start(1, torch.full((4, width), 7.0))
    assert not start[..., : 2 * 48].any()
    assert (start[0, :, 96:] == 7).all()


def test_experts_that_run_all_at_once_are_named():
    """A kernel that does not show each expert's neurons would give them to others."""
    model = copy.deepcopy(make("mixtral"))
    neurons = find_neurons(model)
    model.set_experts_implementation("batched_mm")
    batch = collate([[1, 5, 6]], [0], pad=0, device=torch.device("cpu"))
    with pytest.raises(ModelError, match="MixtralExperts: expected its experts to run one by one"):
        run_with_neurons(model, neurons, [0], batch)


def call(experts, hidden):
    """Call experts without routing."""
    return experts(hidden)


def test_experts_that_are_called_otherwise_are_named():
    """A class of other code."""
    model = copy.deepcopy(make("mixtral"))
    neurons = find_neurons(model)
    ffn = model.model.layers[0].mlp
    ffn.forward = partial(call, ffn.experts)
    batch = collate([[1, 5]], [0], pad=0, device=torch.device("cpu"))
    with pytest.raises(ModelError, match="expected the experts of a mixture to be called with those chosen"):
        run_with_neurons(model, neurons, [0], batch)
