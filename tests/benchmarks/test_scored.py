"""Scored tokens against what transformers takes to write them."""

import pytest
import torch

from pytest_quantcheck.measuring import Plan, measure
from pytest_quantcheck.models.encoding import batches, collate, encode
from pytest_quantcheck.models.greedy import continue_greedily
from pytest_quantcheck.options.attribution import AttributionMethod

TOKENS = 16


@pytest.mark.benchmark(group="scored tokens")
@pytest.mark.minutes
def test_continuation(model, prompts, race, full):
    """A reference that writes 16 tokens after each of 256 prompts, and a candidate that reads them.

    Both are one unquantized model, as a quantized one would be slower in every step of `generate`. The first peer
    writes with both models, from the prompts on; the second is our own pass over the prompts of both, without scored
    tokens. `added` is what scored tokens add to that, as a share of the first peer.
    """
    loaded, chosen = model(dtype="bf16" if full else "fp32"), prompts(256 if full else 16)
    encoded = encode(loaded.tokenizer, chosen.texts, chat=bool(chosen.chat))
    pad = loaded.tokenizer.pad_token_id

    def both(continuation):
        plan = Plan(attribution=AttributionMethod("off"), continuation=continuation)
        reference = measure(loaded, chosen, plan, model="benchmark")
        return reference, measure(loaded, chosen, plan, model="benchmark", reference=reference)

    def generated():
        written = {}
        for _ in range(2):
            for part in batches(encoded, range(len(chosen)), Plan().batch_size):
                batch = collate(encoded, part, pad=pad, device=loaded.device)
                written |= zip(part, continue_greedily(loaded.model, batch, TOKENS, pad=pad), strict=True)
        return written

    (reference, candidate), others = race(
        lambda: both(TOKENS),
        {"model.generate of both": generated, "both without scored tokens": lambda: both(0)},
        rounds=1,
        warmup=0,
        n_prompts=len(chosen),
        n_tokens=sum(map(len, encoded)),
        kernels=torch.backends.cpu.get_cpu_capability(),
    )
    if full:
        generate, without = race.info["peer_seconds"].values()
        race.info["added"] = (race.info["seconds"] - without) / generate
    written = others["model.generate of both"]
    same = [reference.scored.after(i) == written[i] for i in range(len(chosen))]
    assert sum(same) >= 0.9 * len(chosen)  # two ways of rounding may part at a near tie
    assert (candidate.scored.token == reference.scored.token).all()
