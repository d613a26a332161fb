"""The measuring pass against the bare forward pass of the same model on the same batches."""

import pytest
import torch

from pytest_quantcheck.measuring import Plan, measure
from pytest_quantcheck.models.encoding import batches, collate, encode
from pytest_quantcheck.options.attribution import AttributionMethod


@pytest.mark.benchmark(group="measuring")
def test_measuring_pass(model, prompts, race, full, matrix_rate):
    """Answers, dead neurons and redundancy at three layers, 256 prompts in bf16; nothing is attributed.

    The bare pass is the one the plugin runs, contiguous hidden states included; the second peer is the model as
    transformers loads it, asked for the answer position alone.
    """
    dtype = "bf16" if full else "fp32"
    loaded, chosen = model(dtype=dtype), prompts(256 if full else 24)
    plan = Plan(attribution=AttributionMethod("off"))
    encoded = encode(loaded.tokenizer, chosen.texts, chat=bool(chosen.chat))

    @torch.no_grad()
    def bare():
        for part in batches(encoded, range(len(chosen)), plan.batch_size):
            batch = collate(encoded, part, pad=loaded.tokenizer.pad_token_id, device=loaded.device)
            loaded.model(**batch.inputs(), logits_to_keep=1)

    def as_transformers_loads_it():
        head = loaded.model.get_output_embeddings()
        hooks = dict(head._forward_pre_hooks)
        head._forward_pre_hooks.clear()
        bare()
        head._forward_pre_hooks.update(hooks)

    weights = sum(p.numel() for block in loaded.neurons.blocks for p in block.parameters() if p.dim() == 2)
    tokens = sum(map(len, encoded))
    found, _ = race(
        lambda: measure(loaded, chosen, plan, model="benchmark"),
        {"bare forward pass": bare, "bare forward pass as transformers loads the model": as_transformers_loads_it},
        rounds=3,
        warmup=0,
        floor=lambda _: (
            2 * weights * tokens / matrix_rate(getattr(torch, {"bf16": "bfloat16", "fp32": "float32"}[dtype]))
        ),
        n_prompts=len(chosen),
        n_tokens=tokens,
        dtype=dtype,
    )
    race.info["overhead"] = 1 / race.info["ratio"] if full else None
    assert found.activations[0].correlations.count == tokens
