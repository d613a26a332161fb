"""Attributions through the shortened path agree with Captum's, through quantized layers too."""

import json

import pytest
import torch
from bitsandbytes import functional
from captum.attr import LayerIntegratedGradients

from pytest_quantcheck.analyses.saliency import gauss_legendre, salient
from pytest_quantcheck.measuring.attributing import attributions
from pytest_quantcheck.models import builtin
from pytest_quantcheck.models.encoding import Batch, collate, encode
from pytest_quantcheck.models.gradients import float32_gradients
from pytest_quantcheck.models.loading import load
from pytest_quantcheck.models.neurons import find_neurons
from pytest_quantcheck.models.partial_forward import PartialForward
from pytest_quantcheck.models.source import Source
from pytest_quantcheck.models.watching import run_with_neurons

NODES = 8


@pytest.fixture(
    params=[
        "tiny",
        pytest.param(
            "builtin",
            marks=pytest.mark.skipif(
                not (builtin.DIRECTORY / "model.safetensors").exists(), reason="the built-in model is not made yet"
            ),
        ),
    ]
)
def source(request, checkpoint):
    """Random weights, and trained ones."""
    name = str(checkpoint) if request.param == "tiny" else "builtin"
    return Source(name, dtype="fp32", device="cpu")


def prompts(loaded, source, batch_of):
    """Four prompts of unequal lengths."""
    if source.model != "builtin":
        return batch_of(9, 6, 8, 4)
    rows = builtin.PROMPTS.read_text(encoding="utf-8").splitlines()[:4]
    encoded = encode(loaded.tokenizer, [json.loads(row)["prompt"] for row in rows], chat=False)
    return collate(encoded, range(4), pad=loaded.tokenizer.pad_token_id, device=torch.device("cpu"))


def captums(model, module, batch, target):
    """Captum's attributions: the whole model, all nodes at once, the paper's method and baseline."""

    def log_prob(ids, mask, positions, target):
        logits = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits[:, -1]
        return logits.float().log_softmax(-1).gather(1, target[:, None])[:, 0]

    return LayerIntegratedGradients(log_prob, module).attribute(
        batch.input_ids,
        baselines=torch.zeros_like(batch.input_ids),
        additional_forward_args=(batch.attention_mask, batch.position_ids, target),
        n_steps=NODES,
        method="gausslegendre",
    )


def ours(model, layer, batch, target, copies):
    """Attributions as they are measured, with all prompts at so many nodes in one evaluation."""
    neurons = find_neurons(model)
    forward = PartialForward(model, neurons, [layer], batch, target)
    ids = torch.zeros_like(batch.input_ids[:1])
    zeros = Batch((0,), (ids.shape[1],), ids, torch.ones_like(ids), torch.arange(ids.shape[1])[None])
    start = forward.start(layer, run_with_neurons(model, neurons, [layer], zeros)[0][layer][0])
    at_once = copies * len(batch.index)
    return attributions(forward, layer, start, rule=gauss_legendre(NODES), tolerance=0.0, at_once=at_once)[0]


def answers(model, batch):
    """The model's own answers, which are attributed."""
    with torch.no_grad():
        return model(**batch.inputs()).logits[:, -1].argmax(-1)


def cosines(obtained, expected):
    """How alike each prompt's attributions are."""
    return torch.cosine_similarity(obtained.flatten(1).double(), expected.flatten(1).double(), dim=1)


def check(obtained, expected, batch):
    """Cosine of each prompt's attributions, and its salient neurons."""
    assert cosines(obtained, expected).min() >= 0.9999
    assert torch.equal(salient(obtained, batch.real), salient(expected.detach(), batch.real))


@pytest.mark.parametrize("layer", [1, -1])
@pytest.mark.parametrize("bits", ["fp32", "int8"])
def test_attributions_agree_with_captum(source, batch_of, bits, layer):
    """On the same model and nodes: unquantized, and through LLM.int8()'s own kernels."""
    with load(source, bits) as loaded:
        batch, layer = prompts(loaded, source, batch_of), layer % loaded.n_layers
        target = answers(loaded.model, batch)
        with float32_gradients(loaded.model):
            obtained = ours(loaded.model, layer, batch, target, copies=NODES)
            expected = captums(loaded.model, loaded.neurons.activation(layer), batch, target)
        if bits == "int8":  # it multiplies a column in half precision if any row has an outlier: Captum's are others
            assert cosines(obtained, expected).min() >= 0.999
        else:
            check(obtained, expected, batch)


@pytest.mark.parametrize("layer", [1, -1])
@pytest.mark.parametrize("bits", ["nf4", "fp4"])
def test_4bit_attributions_agree_with_captum_on_the_dequantized_weights(source, batch_of, bits, layer):
    """Captum runs a plain model with the weights that bitsandbytes dequantizes; ours the quantized model."""
    with load(source, "fp32") as plain, load(source, bits) as loaded:
        for name, module in loaded.model.named_modules():
            if type(module).__name__ == "Linear4bit":
                weight = functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
                plain.model.get_submodule(name).weight.data = weight.float()
        batch, layer = prompts(loaded, source, batch_of), layer % loaded.n_layers
        target = answers(plain.model, batch)
        with float32_gradients(loaded.model):
            obtained = ours(loaded.model, layer, batch, target, copies=3)
        check(obtained, captums(plain.model, plain.neurons.activation(layer), batch, target), batch)


@pytest.mark.parametrize("copies", [1, 3])
def test_int8_attributions_hardly_depend_on_copies(source, batch_of, copies):
    """Other batch mates mean other outlier columns, which rounds a little differently."""
    with load(source, "int8") as loaded:
        batch = prompts(loaded, source, batch_of)
        target = answers(loaded.model, batch)
        with float32_gradients(loaded.model):
            together, apart = (ours(loaded.model, 1, batch, target, copies=n) for n in (NODES, copies))
    assert cosines(together, apart).min() > 0.99


def test_one_wrong_weight_would_be_noticed(source, batch_of):
    """The agreement above is no matter of course: 4-bit weights attribute differently from the reference's."""
    values = []
    for bits in ("fp32", "nf4"):
        with load(source, bits) as loaded:
            batch = prompts(loaded, source, batch_of)
            target = torch.zeros(4, dtype=torch.int64) + 5
            with float32_gradients(loaded.model):
                values.append(ours(loaded.model, 1, batch, target, copies=1))
    assert cosines(*values).min() < 0.9995
