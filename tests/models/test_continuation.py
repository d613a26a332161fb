"""The shortened paths from one layer's neurons to an answer are the model's own, in value and in gradient."""

import copy

import pytest
import torch
from transformers.modeling_outputs import CausalLMOutput

from pytest_quantcheck.analyses.saliency import gauss_legendre
from pytest_quantcheck.measuring.attributing import attributions
from pytest_quantcheck.models.encoding import Batch
from pytest_quantcheck.models.neurons import find_neurons
from pytest_quantcheck.models.partial_forward import PartialForward, _rows_of
from pytest_quantcheck.models.watching import replace_output, run_with_neurons

# Log-probabilities are sums of some hundred float32 terms of order 1 to 10, added in another order on each path.
ROUNDING = {"atol": 2e-5, "rtol": 2e-5}


def forward_through(model, layer, batch):
    """A partial forward for targets 5, 6, 7, … and the model's own log-probability of them."""
    target = torch.arange(len(batch.index)) + 5
    own = model(**batch.inputs()).logits[:, -1].log_softmax(-1).gather(1, target[:, None])[:, 0]
    return PartialForward(model, find_neurons(model), [layer], batch, target), own


def everyone(forward):
    """The rows of the batch, each once."""
    return torch.arange(len(forward.log_probs))


def start_of(forward, layer):
    """Some other neurons than those on the prompts, moderately far away."""
    return 0.5 * forward.neurons[layer].roll(1, dims=-1)


def paths(forward, layer):
    """All ways from that start to the neurons on the prompts."""
    return list(forward.paths(layer, start_of(forward, layer)))


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_every_path_ends_at_the_models_own_answer(model, batch_of, layer):
    """For each architecture and layer, with prompts of unequal lengths."""
    forward, own = forward_through(model, layer, batch_of(7, 4, 6))
    torch.testing.assert_close(forward.log_probs, own, **ROUNDING)
    for path in paths(forward, layer):
        torch.testing.assert_close(path.log_probs(path.end, everyone(forward)), own, **ROUNDING)


@pytest.mark.parametrize("name", ["llama", "phi", "gpt-neox", "opt", "gpt2", "gemma"])
def test_a_block_without_a_norm_behind_its_neurons_is_passed_once(tiny, batch_of, name):
    """Its output is affine in the neurons, so that the path begins behind it; at the last one with one position."""
    for layer, positions in ((1, 6), (2, 1)):
        forward, _ = forward_through(tiny(name), layer, batch_of(6, 4))
        first, *others = paths(forward, layer)
        assert first.end.shape == (2, positions, 64)
        assert [path.whole for path in (first, *others)] == [False, False, True]


@pytest.mark.parametrize("name", ["gemma2", "opt-post-norm"])
def test_a_norm_behind_the_neurons_is_noticed(tiny, batch_of, name):
    """A block's output is no straight path there: the neurons themselves are the coordinates."""
    forward, _ = forward_through(tiny(name), 1, batch_of(6, 4))
    assert [tuple(path.end.shape) for path in paths(forward, 1)] == [(2, 6, 128)] * 2


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi", "gpt-neox", "gemma2"])
def test_the_last_ffn_sees_the_answer_position_alone(tiny, batch_of, name):
    """Nothing else of what it gives is read."""
    model = tiny(name)
    forward, _ = forward_through(model, 1, batch_of(6, 4))
    seen = []
    handle = find_neurons(model).activation(2).register_forward_hook(lambda _m, _a, out: seen.append(out.shape[1]))
    first, *_ = paths(forward, 1)
    seen.clear()
    first.log_probs(first.end, everyone(forward))
    handle.remove()
    assert seen == [1]


@pytest.mark.parametrize("layer", [0, 2])
def test_the_gradient_is_that_of_the_whole_model(model, batch_of, layer):
    """Halfway along, each path pulls back the gradient that a full forward pass with other neurons has."""
    forward, _ = forward_through(model, layer, batch_of(7, 4, 6))
    *shortened, whole = (halfway_gradient(path, everyone(forward)) for path in paths(forward, layer))
    assert len(shortened) >= 1
    assert whole.abs().max() > 1e-3
    for gradient in shortened:
        torch.testing.assert_close(gradient, whole, **ROUNDING)


def halfway_gradient(path, rows):
    """With respect to the neurons, of the sum of the log-probabilities in the middle of the path."""
    leaf = ((path.start + path.end) / 2).requires_grad_()
    return path.pull_back(torch.autograd.grad(path.log_probs(leaf, rows).sum(), leaf)[0])


def test_whole_path_agrees_with_a_hook_of_ones_own(tiny, batch_of):
    """The path that serves as oracle above is itself a plain forward pass with one module's output replaced."""
    model, batch = tiny("llama"), batch_of(5, 3)
    forward, _ = forward_through(model, 1, batch)
    moved = (forward.neurons[1] + 0.5).requires_grad_()
    handle = model.model.layers[1].mlp.act_fn.register_forward_hook(lambda _m, _a, _o: moved)
    own = model(**batch.inputs()).logits[:, -1].log_softmax(-1)[[0, 1], [5, 6]]
    handle.remove()
    torch.testing.assert_close(paths(forward, 1)[-1].log_probs(moved, everyone(forward)), own, **ROUNDING)


# 4 prompts are as many as there are tokens and heads; one prompt is as many as what holds for all prompts.
@pytest.mark.parametrize("lengths", [(7, 4, 6), (4, 4, 3, 2), (4, 4, 4, 4), (5,)])
def test_other_rows_do_not_change_a_row(model, batch_of, lengths):
    """Rows taken again and in another order give what each gives alone, on every path."""
    forward, _ = forward_through(model, 1, batch_of(*lengths))
    rows = torch.cat([everyone(forward), everyone(forward).flip(0)])
    for path in paths(forward, 1):
        at = torch.stack([path.start, path.end])[torch.arange(len(rows)) % 2, rows]
        alone = [path.log_probs(at[i : i + 1], rows[i : i + 1]) for i in range(len(rows))]
        torch.testing.assert_close(path.log_probs(at, rows), torch.cat(alone), **ROUNDING)


def test_prompts_do_not_see_each_other(model, batch_of):
    """The gradient of one prompt's answer with respect to another prompt's neurons is zero."""
    forward, _ = forward_through(model, 0, batch_of(5, 4))
    for path in paths(forward, 0):
        leaf = path.end.clone().requires_grad_()
        (slope,) = torch.autograd.grad(path.log_probs(leaf, everyone(forward))[0], leaf)
        assert slope[0].any()
        assert not slope[1].any()


def test_one_run_of_token_zero_is_the_baseline_of_every_length(model, batch_of):
    """What the longest sequence of zeros gives is what each shorter one gives, in its place; padding has no step."""
    batch, neurons = batch_of(7, 3, 1), find_neurons(model)
    forward = PartialForward(model, neurons, [1], batch, torch.tensor([5, 6, 7]))
    start = forward.start(1, zeros(model, 7))
    for row, length in enumerate(batch.lengths):
        torch.testing.assert_close(start[row, 7 - length :], zeros(model, length), **ROUNDING)
    assert torch.equal(start[~batch.real], forward.neurons[1][~batch.real])


def zeros(model, length):
    """Layer 1's neurons (length, d) on so many tokens of id 0."""
    ids = torch.zeros(1, length, dtype=torch.int64)
    batch = Batch((0,), (length,), ids, torch.ones_like(ids), torch.arange(length)[None])
    return run_with_neurons(model, find_neurons(model), [1], batch)[0][1][0]


def test_a_path_from_zero_starts_at_zero(tiny, batch_of):
    """The other baseline is the zero vector at every token."""
    forward, _ = forward_through(tiny("llama"), 1, batch_of(5, 3))
    assert not forward.start(1, None).any()


def test_unknown_scale_of_the_logits_is_noticed(tiny, batch_of):
    """Code of a checkpoint's own divides them: the whole model is attributed."""
    model = copy.deepcopy(tiny("llama"))
    model.register_forward_hook(lambda _module, _args, output: CausalLMOutput(logits=output.logits / 1.3))
    forward, own = forward_through(model, 1, batch_of(5, 3))
    *shortened, whole = paths(forward, 1)
    assert all((path.log_probs(path.end, everyone(forward)) - own).abs().max() > 0.05 for path in shortened)
    expected = halfway_gradient(whole, everyone(forward)) * (forward.neurons[1] - start_of(forward, 1))
    obtained, found = attributions(forward, 1, start_of(forward, 1), rule=gauss_legendre(1), tolerance=0.0, at_once=1)
    torch.testing.assert_close(obtained, expected, **ROUNDING)
    torch.testing.assert_close(found.at_end.float(), own, **ROUNDING)


def test_several_layers_share_a_passage(tiny, batch_of):
    """What one forward keeps for each of its layers is what a forward of its own would."""
    model, batch = tiny("llama"), batch_of(5, 3)
    together = PartialForward(model, find_neurons(model), [0, 2], batch, torch.tensor([5, 6]))
    for layer in (0, 2):
        alone, _ = forward_through(model, layer, batch)
        for one, other in zip(paths(together, layer), paths(alone, layer), strict=True):
            assert torch.equal(one.end, other.end)
            assert torch.equal(one.log_probs(one.start, everyone(alone)), other.log_probs(other.start, everyone(alone)))


def test_no_hook_is_left_behind(tiny, batch_of):
    """After building and evaluating, every module is as it was."""
    model = tiny("llama")
    forward, _ = forward_through(model, 0, batch_of(5, 3))
    for path in paths(forward, 0):
        path.log_probs(path.end, everyone(forward))
    assert hooks(model) == 0


def test_no_hook_is_left_behind_by_an_exception(tiny, batch_of):
    """Neurons of the wrong shape raise, and the module answers for itself again."""
    model = tiny("llama")
    forward, _ = forward_through(model, 0, batch_of(5, 3))
    for path in paths(forward, 0)[1:]:
        with pytest.raises(RuntimeError):
            path.log_probs(path.end[:, :, :-1], everyone(forward))
    broken = Batch((0,), (3,), torch.tensor([[5, 6, 10_000]]), torch.ones(1, 3), torch.arange(3)[None])
    with pytest.raises(IndexError):
        PartialForward(model, find_neurons(model), [0], broken, torch.tensor([5]))
    assert hooks(model) == 0


def hooks(model):
    """How many hooks are registered anywhere in the model."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_replaced_keeps_shape_and_dtype():
    """A module that answers in another shape or dtype goes on doing so."""
    module = torch.nn.Flatten().double()
    given = torch.zeros(2, 3, 4, dtype=torch.float64)
    with replace_output(module, torch.ones(2, 3, 4)):
        assert torch.equal(module(given), torch.ones(2, 12, dtype=torch.float64))
    assert torch.equal(module(given), torch.zeros(2, 12, dtype=torch.float64))


def test_only_what_has_one_row_a_prompt_is_taken():
    """What holds for all prompts, has no rows or is no tensor stays, however deep it lies; containers keep their kind.

    No supported architecture hands its blocks such a tensor where there is more than one prompt; others do.
    """
    per_prompt, shared, counter = torch.arange(6).view(3, 2), torch.ones(1, 2), torch.arange(3)
    given = {"mask": per_prompt, "pair": (shared, [per_prompt]), "step": counter, "cache": None, "flag": True}
    rows = torch.tensor([2, 2, 0])
    obtained = _rows_of(given, rows, 3, {})
    assert torch.equal(obtained["mask"], per_prompt[rows])
    assert obtained["pair"][0] is shared
    assert obtained["pair"][1][0] is obtained["mask"]
    assert isinstance(obtained["pair"][1], list)
    assert obtained["step"] is counter
    assert (obtained["cache"], obtained["flag"]) == (None, True)
