"""What the reference says of each type of causal language model is what a gate makes of a tiny one."""

import tomllib

import pytest
import torch
import transformers

from pytest_quantcheck.models.encoding import collate
from pytest_quantcheck.models.experts import run_experts_one_by_one
from pytest_quantcheck.models.gradients import float32_gradients, float32_gradients_in_pieces
from pytest_quantcheck.models.loading import load
from pytest_quantcheck.models.neurons import find_neurons
from pytest_quantcheck.models.partial_forward import PartialForward
from pytest_quantcheck.models.placement import fetched_share
from pytest_quantcheck.models.source import Source
from tests.causal_models import FOUND, TYPES, describe, make

RECORDED = tomllib.loads(FOUND.read_text(encoding="utf-8"))
NAMED = ("bloom", "mpt", "falcon", "starcoder2", "gpt_bigcode", "nemotron", "cohere", "glm", "ernie4_5")


def check(kind, tokenizer, tmp_path):
    """Each is made, saved, loaded at both bit-widths and at full precision, and run."""
    if kind not in RECORDED["types"] and transformers.__version__ != RECORDED["transformers"]:
        pytest.skip(f"recorded for transformers {RECORDED['transformers']}")
    assert describe(kind, tokenizer, tmp_path)._asdict() == RECORDED["types"][kind]


@pytest.mark.parametrize("kind", NAMED)
def test_common_type_is_gated_whole(tokenizer, tmp_path, kind):
    """Those that people release most."""
    assert RECORDED["types"][kind]["gated"] == "whole"
    check(kind, tokenizer, tmp_path)


@pytest.mark.ci
@pytest.mark.parametrize("kind", sorted(set(TYPES) - set(NAMED)))
def test_type_is_gated_as_recorded(tokenizer, tmp_path, kind):
    """Every other one of transformers' own list."""
    check(kind, tokenizer, tmp_path)


GATED = sorted(kind for kind in TYPES if RECORDED["types"].get(kind, {}).get("gated") in {"whole", "in part"})


@pytest.mark.slow
@pytest.mark.parametrize("kind", GATED)
def test_gradients_in_pieces_are_those_of_the_whole(kind):
    """By the cheapest path of each layer and by the whole model, to the last bit."""
    model = make(kind).bfloat16().requires_grad_(requires_grad=False)
    run_experts_one_by_one(model)
    blocks = find_neurons(model).blocks
    with float32_gradients(model):
        expected = list(slopes(model, recompute=False))
    with float32_gradients_in_pieces(model, blocks):
        obtained = list(slopes(model, recompute=True))
    assert expected
    assert all(torch.equal(one, other) for one, other in zip(expected, obtained, strict=True))


ONE_LARGE_PART = {"fuyu", "jamba", "llama4", "minimax", "mllama", "nemotron_h"}
"""Tiny models of which one block or tensor is more than half: it would be refused."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", GATED)
def test_weights_on_disk_are_those_in_memory(kind, tokenizer, tmp_path):
    """Gradients, and so what they are taken of, with half the weights on disk, to the last bit."""
    make(kind).bfloat16().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    size, found = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors")), []
    few = int(size * (0.95 if kind in ONE_LARGE_PART else 0.5))
    for room in (2 * size, few):
        with load(Source(str(tmp_path), max_memory=(("cpu", room),))) as loaded:
            assert (fetched_share(loaded.model) > 0) == (room == few)
            with float32_gradients_in_pieces(loaded.model, loaded.neurons.blocks):
                found.append(list(slopes(loaded.model, recompute=True)))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def slopes(model, *, recompute):
    """Gradients of two prompts' answers: by the coordinates of paths, and by the neurons."""
    neurons = find_neurons(model)
    layers = [n for n, found in enumerate(neurons.activations) if found or n in neurons.mixtures]
    encoded = [list(range(5, 11)), list(range(9, 13))]
    batch = collate(encoded, range(2), pad=0, device=torch.device("cpu"))
    forward = PartialForward(model, neurons, layers, batch, torch.tensor([5, 6]), recompute=recompute)
    rows = torch.tensor([0, 1])
    for layer in layers:
        paths = list(forward.paths(layer, forward.start(layer, None)))
        for path in (paths[0], paths[-1]):
            end = path.end.detach().requires_grad_()
            (slope,) = torch.autograd.grad(path.log_probs(end, rows).sum(), end)
            yield slope
            yield path.pull_back(slope)
