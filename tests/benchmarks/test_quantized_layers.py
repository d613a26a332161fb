"""Quantized layers on a CPU: their own kernels, against linear layers with the weights dequantized once.

Weight-only quantization (4-bit) is the same function either way. LLM.int8() rounds activations too: with its weights
dequantized it is another function, and how far apart the two are is published beside the times.
"""

import time
from functools import partial

import pytest
import torch

from pytest_quantcheck.models.encoding import batches, collate, encode
from pytest_quantcheck.models.gradients import dequantized, float32_gradients

KERNELS = "LLM.int8()'s own kernels"
FORMATS = {"bfloat16": torch.bfloat16, "float32": torch.float32}
STEP = 2**-3
"""Of bf16 between 16 and 32, where the built-in model's largest logits are."""

APART = {"int8": 0.01, "nf4": (2 * STEP) ** 2 / 8}
"""Nats of KL divergence by which the two ways may differ at the reduced size, whatever the kernels.

LLM.int8(): what rounding activations to int8 does. NF4 is the same function, rounded to bf16 at other places: two
logits may each be a step off, in opposite directions. If changes of logits span d, KL <= d^2 / 8 (Hoeffding).
NF4 itself is 0.015 away from the reference.
"""


class Dequantized:
    """A model's quantized layers as linear layers in a float format, swapped in for the length of a `with` block.

    `seconds` is how long it took to make their weights. A 4-bit layer packs its weight when it is first called: the
    model must have run once.
    """

    def __init__(self, model, dtype):
        start = time.perf_counter()
        layers = [module for module in model.modules() if type(module).__name__ in {"Linear4bit", "Linear8bitLt"}]
        self._forwards = {layer: partial(_linear, dequantized(layer).to(dtype), layer.bias) for layer in layers}
        self.seconds = time.perf_counter() - start

    def __enter__(self):
        for layer, forward in self._forwards.items():
            layer.forward = forward

    def __exit__(self, *_):
        for layer in self._forwards:
            del layer.forward


def _linear(weight, bias, x):
    return torch.nn.functional.linear(x.to(weight.dtype), weight, bias).to(x.dtype)


@pytest.fixture
def inputs(prompts, full):
    """Makes a loaded model's batches of prompts."""

    def make(loaded, n):
        encoded = encode(loaded.tokenizer, prompts(n).texts, chat=loaded.chat)
        pad = loaded.tokenizer.pad_token_id
        return [collate(encoded, part, pad=pad, device=loaded.device) for part in batches(encoded, range(n), 16)]

    return make


@torch.no_grad()
def answers(model, parts):
    """Log-probabilities (prompts, vocabulary) of the next token, batch after batch."""
    logits = [model(**batch.inputs(), logits_to_keep=1).logits[:, -1] for batch in parts]
    return torch.cat(logits).float().log_softmax(-1)


def difference(expected, obtained):
    """How far two answer distributions are apart."""
    kl = (expected.exp() * (expected - obtained)).sum(-1)
    return {
        "kl_mean": kl.mean().item(),
        "kl_max": kl.max().item(),
        "log_prob_max": (expected - obtained).abs().max().item(),
        "same_answer": (expected.argmax(-1) == obtained.argmax(-1)).float().mean().item(),
    }


@pytest.mark.minutes
@pytest.mark.benchmark(group="quantized layers")
@pytest.mark.parametrize("bits", ["int8", "nf4"])
def test_answers_through_quantized_layers(race, model, inputs, full, bits):
    """The pass whose answers are gated: it takes the kernels that ship, whatever they cost."""
    loaded = model(bits, dtype="bf16")
    parts = inputs(loaded, 32 if full else 12)
    answers(loaded.model, parts[:1])
    ways = {f"dequantized once to {name}": Dequantized(loaded.model, dtype) for name, dtype in FORMATS.items()}

    def through(way):
        with way:
            return answers(loaded.model, parts)

    found, others = race(
        lambda: answers(loaded.model, parts),
        {name: partial(through, way) for name, way in ways.items()},
        rounds=3,
        prompts=sum(len(batch.index) for batch in parts),
        bits=bits,
        dtype="bfloat16",
    )
    apart = {name: difference(found, other) for name, other in others.items()}
    race.info |= {"seconds_to_dequantize": {name: way.seconds for name, way in ways.items()}, "difference": apart}
    if not full:
        assert all(each["kl_max"] < APART[bits] for each in apart.values())


@pytest.mark.minutes
@pytest.mark.benchmark(group="quantized layers")
def test_gradients_through_int8_layers(race, model, inputs, full):
    """The attribution pass dequantizes once; LLM.int8()'s kernels have gradients too, and are taken if asked for."""
    loaded = model("int8", dtype="bf16")
    (batch,) = inputs(loaded, 16 if full else 12)

    def gradient(*, int8_kernels):
        with float32_gradients(loaded.model, int8_kernels=int8_kernels):
            return gradient_at_the_middle(loaded, batch)

    found, others = race(
        lambda: gradient(int8_kernels=False), {KERNELS: lambda: gradient(int8_kernels=True)}, rounds=3, bits="int8"
    )
    cosine = torch.nn.functional.cosine_similarity(found.flatten(), others[KERNELS].flatten(), dim=0).item()
    race.info |= {"cosine": cosine}
    if not full:
        assert cosine > 0.99


def gradient_at_the_middle(loaded, batch):
    """The gradient of the answers' log-probabilities in the neurons of the middle layer."""
    seen = []

    def hook(_module, _args, output):
        seen.append(output.detach().requires_grad_())
        return seen[0]

    handle = loaded.neurons.activation((loaded.n_layers - 1) // 2).register_forward_hook(hook)
    try:
        logits = loaded.model(**batch.inputs(), logits_to_keep=1).logits[:, -1]
    finally:
        handle.remove()
    return torch.autograd.grad(logits.log_softmax(-1).amax(-1).sum(), seen[0])[0]
