"""The shortened path from one layer's neurons to an answer is the model's own, in value and in gradient."""

import pytest
import torch

from pytest_quantcheck.models.continuation import Continuation, _repeat, replaced
from pytest_quantcheck.models.encoding import Batch
from pytest_quantcheck.models.neurons import find_neurons

# Log-probabilities are sums of some hundred float32 terms of order 1 to 10, added in another order on each path.
ROUNDING = {"atol": 2e-5, "rtol": 2e-5}


def continue_from(model, layer, batch):
    """The continuation for targets 5, 6, 7, … and the model's own log-probability of them."""
    target = torch.arange(len(batch.index)) + 5
    own = model(**batch.inputs()).logits[:, -1].log_softmax(-1).gather(1, target[:, None])[:, 0]
    return Continuation(model, find_neurons(model), layer, batch, target), own


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_shortened_path_gives_the_models_own_answer(model, batch_of, layer):
    """For each architecture and layer, with prompts of unequal lengths."""
    continuation, own = continue_from(model, layer, batch_of(7, 4, 6))
    assert continuation.shortened
    torch.testing.assert_close(continuation(continuation.activations), own, **ROUNDING)


@pytest.mark.parametrize("layer", [0, 2])
def test_gradient_is_that_of_the_whole_model(model, batch_of, layer):
    """Replacing the neurons by a leaf in a full forward pass gives the same gradient, padding included."""
    batch = batch_of(7, 4, 6)
    continuation, _ = continue_from(model, layer, batch)
    obtained = gradient(continuation, continuation.activations)
    continuation.shortened = False
    expected = gradient(continuation, continuation.activations)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(obtained, expected, **ROUNDING)


def gradient(function, neurons):
    """Of the sum of the function's values."""
    leaf = neurons.clone().requires_grad_()
    return torch.autograd.grad(function(leaf).sum(), leaf)[0]


def test_whole_path_agrees_with_a_hook_of_ones_own(tiny, batch_of):
    """The path that serves as oracle above is itself a plain forward pass with one module's output replaced."""
    model, batch = tiny("llama"), batch_of(5, 3)
    continuation, _ = continue_from(model, 1, batch)
    moved = (continuation.activations + 0.5).requires_grad_()
    continuation.shortened = False
    handle = model.model.layers[1].mlp.act_fn.register_forward_hook(lambda _m, _a, _o: moved)
    own = model(**batch.inputs()).logits[:, -1].log_softmax(-1)[[0, 1], [5, 6]]
    handle.remove()
    torch.testing.assert_close(continuation(moved), own, **ROUNDING)


# 4 prompts are as many as there are tokens and heads; one prompt is as many as what holds for all prompts.
@pytest.mark.parametrize("lengths", [(7, 4, 6), (4, 4, 3, 2), (4, 4, 4, 4), (5,)])
def test_copies_do_not_change_a_row(model, batch_of, lengths):
    """Three copies of the batch, each with other neurons, give what each gives alone."""
    continuation, _ = continue_from(model, 1, batch_of(*lengths))
    scaled = [factor * continuation.activations for factor in (1.0, 0.3, -2.0)]
    assert continuation.shortened
    together = continuation(torch.cat(scaled))
    torch.testing.assert_close(together, torch.cat([continuation(part) for part in scaled]), **ROUNDING)


def test_prompts_do_not_see_each_other(model, batch_of):
    """The gradient of one prompt's answer with respect to another prompt's neurons is zero."""
    continuation, _ = continue_from(model, 0, batch_of(5, 4))
    leaf = continuation.activations.clone().requires_grad_()
    (slope,) = torch.autograd.grad(continuation(leaf)[0], leaf)
    assert slope[0].any()
    assert not slope[1].any()


def test_baseline_is_token_zero_in_the_same_place(tiny, batch_of):
    """Baseline activations are those of sequences of token id 0 with the same mask and positions."""
    model, batch = tiny("llama"), batch_of(5, 3)
    continuation, _ = continue_from(model, 1, batch)
    zeros = Batch(
        batch.index, batch.lengths, torch.zeros_like(batch.input_ids), batch.attention_mask, batch.position_ids
    )
    expected, _ = continue_from(model, 1, zeros)
    assert torch.equal(continuation.baseline_activations(), expected.activations)


def test_unknown_scale_of_the_logits_is_noticed(tiny, batch_of):
    """Granite has Llama's layout and divides its logits: the whole model runs, and is right."""
    continuation, own = continue_from(tiny("granite"), 1, batch_of(5, 3))
    assert not continuation.shortened
    torch.testing.assert_close(continuation(continuation.activations), own, **ROUNDING)


def test_whole_path_takes_copies_too(tiny, batch_of):
    """Where the path is not shortened, copies agree with single rows as well."""
    continuation, own = continue_from(tiny("granite"), 1, batch_of(5, 3))
    torch.testing.assert_close(continuation(continuation.activations.repeat(3, 1, 1)), own.repeat(3), **ROUNDING)


def test_no_hook_is_left_behind(tiny, batch_of):
    """After building and evaluating, every module is as it was."""
    model = tiny("llama")
    continuation, _ = continue_from(model, 0, batch_of(5, 3))
    continuation(continuation.activations)
    assert hooks(model) == 0


def test_no_hook_is_left_behind_by_an_exception(tiny, batch_of):
    """Neurons of the wrong shape raise, and the module answers for itself again."""
    model = tiny("llama")
    continuation, _ = continue_from(model, 0, batch_of(5, 3))
    with pytest.raises(RuntimeError):
        continuation(continuation.activations[:, :, :-1])
    broken = Batch((0,), (3,), torch.tensor([[5, 6, 10_000]]), torch.ones(1, 3), torch.arange(3)[None])
    with pytest.raises(IndexError):
        continue_from_unchecked(model, broken)
    assert hooks(model) == 0


def continue_from_unchecked(model, batch):
    """A continuation whose own forward pass is the one to fail."""
    return Continuation(model, find_neurons(model), 0, batch, torch.tensor([5]))


def hooks(model):
    """How many hooks are registered anywhere in the model."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_replaced_keeps_shape_and_dtype():
    """A module that answers in another shape or dtype goes on doing so."""
    module = torch.nn.Flatten().double()
    given = torch.zeros(2, 3, 4, dtype=torch.float64)
    with replaced(module, torch.ones(2, 3, 4)):
        assert torch.equal(module(given), torch.ones(2, 12, dtype=torch.float64))
    assert torch.equal(module(given), torch.zeros(2, 12, dtype=torch.float64))


def test_only_what_has_one_row_a_prompt_is_repeated():
    """What holds for all prompts, has no rows or is no tensor stays, however deep it lies; containers keep their kind.

    No supported architecture hands its blocks such a tensor where there is more than one prompt; others do.
    """
    per_prompt, shared, counter = torch.arange(6).view(3, 2), torch.ones(1, 2), torch.arange(3)
    given = {"mask": per_prompt, "pair": (shared, [per_prompt]), "step": counter, "cache": None, "flag": True}
    obtained = _repeat(given, 2, 3)
    assert torch.equal(obtained["mask"], torch.cat([per_prompt, per_prompt]))
    assert obtained["pair"][0] is shared
    assert torch.equal(obtained["pair"][1][0], obtained["mask"])
    assert isinstance(obtained["pair"][1], list)
    assert obtained["step"] is counter
    assert (obtained["cache"], obtained["flag"]) == (None, True)
