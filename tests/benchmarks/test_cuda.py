"""The same kernels on a CUDA device: a randomly initialised model of Llama-2-7B's sizes, in bf16, LLM.int8() and NF4.

Without a device they run on a tiny model on the CPU under `--benchmark-disable`, so that they do not go stale, and are
skipped when times are taken.
"""

import numpy as np
import pytest
import torch
from captum.attr import LayerIntegratedGradients
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from pytest_quantcheck.analyses.correlation_sums import CorrelationSums
from pytest_quantcheck.analyses.redundancy import correlation
from pytest_quantcheck.analyses.saliency import jaccard, salient
from pytest_quantcheck.measuring import NoProgress, Plan, measure
from pytest_quantcheck.measuring.attributing import Attributor
from pytest_quantcheck.models import builtin
from pytest_quantcheck.models.encoding import batches, collate, encode
from pytest_quantcheck.models.gradients import float32_gradients
from pytest_quantcheck.models.loading import load
from pytest_quantcheck.models.source import Source
from pytest_quantcheck.options.attribution import AttributionMethod
from pytest_quantcheck.prompts import read_prompts

LLAMA_2_7B = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}
TINY = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
BITS = ["bf16", "int8", "nf4"]
CUDA = torch.cuda.is_available()

pytestmark = [pytest.mark.minutes, pytest.mark.benchmark(group="cuda")]


@pytest.fixture
def device(full):
    """The CUDA device; the CPU where there is none and no times are taken."""
    if full and not CUDA:
        pytest.skip("no CUDA device")
    return torch.device("cuda" if CUDA else "cpu")


@pytest.fixture(scope="module")
def checkpoint(request, tmp_path_factory):
    """A randomly initialised Llama in bf16, tiny unless times are taken, with the built-in model's tokenizer."""
    full = CUDA and not request.config.getoption("benchmark_disable")
    torch.manual_seed(0)
    with torch.device("cuda" if full else "cpu"):
        model = LlamaForCausalLM(LlamaConfig(**(LLAMA_2_7B if full else TINY), dtype=torch.bfloat16)).bfloat16()
    folder = tmp_path_factory.mktemp("llama")
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(builtin.DIRECTORY).save_pretrained(folder)
    return Source(str(folder), dtype="bf16")


@pytest.fixture
def llama(checkpoint, device):
    """Loads it at a bit-width."""
    opened = []

    def make(bits):
        opened.append(load(Source(checkpoint.model, dtype="bf16", device=str(device)), bits))
        return opened[-1]

    yield make
    for loaded in opened:
        loaded.close()


def finished(function, device):
    """The function, and nothing of it left for the device to do when it returns."""

    def run():
        result = function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return result

    return run


@pytest.mark.parametrize("bits", BITS)
def test_measuring_pass(llama, device, race, full, bits):
    """Answers, dead neurons and redundancy at three layers against the bare forward pass on the same batches."""
    loaded, prompts = llama(bits), read_prompts("builtin", samples=256 if full else 16)
    plan = Plan(attribution=AttributionMethod("off"))
    encoded = encode(loaded.tokenizer, prompts.texts, chat=loaded.chat)

    @torch.no_grad()
    def bare():
        for part in batches(encoded, range(len(prompts)), plan.batch_size):
            batch = collate(encoded, part, pad=loaded.tokenizer.pad_token_id, device=device)
            loaded.model(**batch.inputs(), logits_to_keep=1)

    tokens = sum(map(len, encoded))
    found, _ = race(
        finished(lambda: measure(loaded, prompts, plan, model="benchmark"), device),
        {"bare forward pass": finished(bare, device)},
        n_prompts=len(prompts),
        n_tokens=tokens,
        bits=bits,
        device=str(device),
    )
    race.info["overhead"] = 1 / race.info["ratio"] if full else None
    assert [part.correlations.count for part in found.activations.values()] == [tokens] * 3


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("place", ["middle", "last"])
def test_attribution(llama, race, full, bits, place):
    """Layer integrated gradients against Captum's 50 steps, both in float32; the same neurons are salient."""
    loaded, prompts = llama(bits), read_prompts("builtin", samples=10)
    layer = {"middle": (loaded.n_layers - 1) // 2, "last": loaded.n_layers - 1}[place]
    encoded = encode(loaded.tokenizer, prompts.texts, chat=loaded.chat)
    with float32_gradients(loaded.model, int8_kernels=False):
        targets = answers(loaded, encoded)
        found, others = race(
            finished(lambda: attributed(loaded, encoded, layer, targets), loaded.device),
            {
                "captum, 50 steps": finished(
                    lambda: attributed_by_captum(loaded, encoded, layer, targets), loaded.device
                )
            },
            rounds=3,
            layer=layer,
            n_prompts=len(targets),
            bits=bits,
            device=str(loaded.device),
            dtype="float32",
        )
    race.info |= {"error": found.error.tolist(), "nodes": found.nodes.tolist()}
    race.info["overlap"] = float(jaccard(found.salient, others["captum, 50 steps"]).mean())
    if not full:
        assert race.info["overlap"] > 0.9  # a neuron next to 0.7 of the largest can tip


def answers(loaded, encoded):
    """Each prompt's most probable token."""
    with torch.no_grad():
        ids = [torch.tensor([prompt], device=loaded.device) for prompt in encoded]
        return {
            i: int(loaded.model(input_ids=one, use_cache=False).logits[0, -1].argmax()) for i, one in enumerate(ids)
        }


def attributed(loaded, encoded, layer, targets):
    """Our salient neurons of one layer."""
    return Attributor(loaded, encoded, AttributionMethod()).attribute([layer], targets, NoProgress())[layer]


def attributed_by_captum(loaded, encoded, layer, targets):
    """Captum's salient neurons (prompts, d) of one layer, a prompt at a time."""

    def log_prob(ids, target):
        logits = loaded.model(input_ids=ids, use_cache=False).logits[:, -1]
        return logits.log_softmax(-1).gather(1, target[:, None])[:, 0]

    attribution = LayerIntegratedGradients(log_prob, loaded.neurons.activation(layer))
    found = []
    for i, prompt in enumerate(encoded):
        ids, target = (torch.tensor([value], device=loaded.device) for value in (prompt, targets[i]))
        values = attribution.attribute(
            ids,
            baselines=torch.zeros_like(ids),
            additional_forward_args=(target,),
            n_steps=50,
            method="gausslegendre",
        ).detach()
        found.append(salient(values, torch.ones_like(ids, dtype=torch.bool))[0].cpu().numpy())
    return np.stack(found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_correlation(device, race, full, dtype):
    """Correlations of the 7B model's layer width from batches against `torch.corrcoef` of all tokens at once."""
    d, n = (11008, 16384) if full else (128, 300)
    generator = torch.Generator(device).manual_seed(0)
    values = torch.randn(n, d, generator=generator, device=device).add_(3).to(dtype)

    def ours():
        sums = CorrelationSums(d, device)
        for batch in values.split(800):
            sums.update(batch)
        return correlation(sums.result())[0]

    found, others = race(
        finished(ours, device),
        {"torch.corrcoef": finished(lambda: torch.corrcoef(values.float().T), device)},
        rounds=3,
        d=d,
        n=n,
        dtype=str(dtype).removeprefix("torch."),
        device=str(device),
    )
    if not full:
        np.testing.assert_allclose(found, others["torch.corrcoef"].cpu().numpy(), atol=1e-5)
