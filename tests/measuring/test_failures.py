"""A model that gives nothing that can be measured: one sentence that says what and where."""

import dataclasses

import pytest
import torch

from pytest_quantcheck.errors import MeasurementError


def rows_with(loaded, prompts, token):
    """Rows of the prompts that hold a token."""
    return [
        row
        for row, text in zip(prompts.rows, prompts.texts, strict=True)
        if token in loaded.tokenizer(text)["input_ids"]
    ]


def test_one_nan_weight_is_found_out(run, damaged, prompts):
    """NaN in a projection that every prompt passes: no prompt has an answer, and the first rows are named."""
    damaged.model.model.layers[3].self_attn.v_proj.weight.data[0, 0] = torch.nan
    named = ", ".join(str(row) for row in prompts.rows[:5])
    with pytest.raises(
        MeasurementError, match=f"40 of 40 prompts of builtin are NaN or infinite .first in rows {named}"
    ):
        run(damaged, prompts)


def test_the_rows_are_those_that_are_bad(run, damaged, prompts):
    """NaN in the embedding of one word: the prompts that hold it are counted and named, no others."""
    word = damaged.tokenizer(prompts.texts[0])["input_ids"][4]
    rows = rows_with(damaged, prompts, word)
    assert 0 < len(rows) < len(prompts)
    damaged.model.model.embed_tokens.weight.data[word, 0] = torch.nan
    named = ", ".join(str(row) for row in rows[:5])
    with pytest.raises(MeasurementError, match=rf"the logits of {len(rows)} of 40 prompts.*rows {named}\)"):
        run(damaged, prompts)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_one_infinite_logit_is_enough(run, damaged, prompts, value):
    """A single token's logit is not finite, the others are: not measured, not even where the answer is another."""
    head = damaged.model.get_output_embeddings()
    head.register_forward_hook(lambda _m, _a, out: out.index_fill(-1, torch.tensor([9]), value))
    with pytest.raises(MeasurementError, match="40 of 40 prompts of builtin are NaN or infinite"):
        run(damaged, prompts)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e30])
def test_activations_that_overflow_are_found_where_no_logit_shows_it(run, damaged, prompts, value):
    """At the last block these neurons reach no logit: they are refused all the same, with the layer and the prompts."""
    row, bad = 0, {5, 31}
    order = sorted(range(40), key=lambda i: (-len(damaged.tokenizer(prompts.texts[i])["input_ids"]), i))

    def overflow(_module, _args, out):
        nonlocal row
        for prompt in range(len(out)):
            if order[row + prompt] in bad:
                out[prompt, -2, 3] = value
        row += len(out)
        return out

    damaged.model.model.layers[5].mlp.act_fn.register_forward_hook(overflow)
    named = f"{prompts.rows[5]}, {prompts.rows[31]}"
    with pytest.raises(
        MeasurementError,
        match=rf"layer 5: expected finite activations.* in 2 prompts of builtin .first in rows {named}\)",
    ):
        run(damaged, prompts)


def test_a_module_that_is_never_called_is_found_out(run, damaged, prompts):
    """The activation that was pointed at takes no part in the forward pass: said, with the layer."""
    bypassed = (torch.nn.SiLU(), *damaged.neurons.activations[1:])
    damaged = dataclasses.replace(damaged, neurons=dataclasses.replace(damaged.neurons, activations=bypassed))
    with pytest.raises(MeasurementError, match=r"layer 0: its activation module was never called; .*-neurons"):
        run(damaged, prompts)


def test_no_memory_is_said_in_a_sentence(run, damaged, prompts):
    """On a CPU torch raises a bare RuntimeError: it comes out as advice to take a smaller batch."""
    damaged.model.register_forward_pre_hook(lambda _m, _a: (torch.empty(10**16), None)[1])
    with pytest.raises(
        MeasurementError, match=r"out of memory at --quantcheck-batch-size=16 and --q.*=1024: take smaller"
    ):
        run(damaged, prompts)


def test_other_errors_are_not_taken_for_that(run, damaged, prompts):
    """A bug in a model's own code stays what it is."""

    def broken(_module, _args):
        raise RuntimeError("shapes do not match")

    damaged.model.register_forward_pre_hook(broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run(damaged, prompts)


def test_kernel_that_cannot_run_a_quantized_model_is_named(run, quantized, prompts):
    """A library's error about shapes says nothing to who chose a bit-width."""

    def broken(_module, _args):
        raise AssertionError("N must be divisible by block_n")

    handle = quantized["nf4"].model.register_forward_pre_hook(broken)
    try:
        with pytest.raises(MeasurementError, match=r"the model as nf4 cannot be run on cpu: AssertionError: N must be"):
            run(quantized["nf4"], prompts)
    finally:
        handle.remove()


def test_hooks_are_gone_after_a_failure(run, damaged, prompts):
    """A failed measurement leaves no hook of ours in the model."""
    before = len(damaged.neurons.activation(2)._forward_hooks)
    damaged.model.model.layers[3].self_attn.v_proj.weight.data[0, 0] = torch.nan
    with pytest.raises(MeasurementError):
        run(damaged, prompts)
    assert len(damaged.neurons.activation(2)._forward_hooks) == before
