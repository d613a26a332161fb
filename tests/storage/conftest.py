"""A small measurement made as a real one is, and a small disk."""

import subprocess

import msgspec
import numpy as np
import pytest
import torch

from pytest_quantcheck.analyses.correlation_sums import CorrelationSums
from pytest_quantcheck.analyses.dead_neurons import new_extremes, update_extremes
from pytest_quantcheck.records import Activations, Answers, Measurement, Saliency, ScoredTokens
from tests.bits import bits_of
from tests.provenance import ANY

PROMPTS, NEURONS, CORRELATED, FOLLOWED, GROUPS, VOCABULARY, LAYERS = 9, 6, 5, 4, 16, 11, (0, 3, 14)


def provenance():
    """Every kind of value that a document must hold."""
    return msgspec.structs.replace(
        ANY,
        bits="nf4",
        content_hash="sha256:1234",
        module_types={"Linear4bit": 12, "Linear": 1},
        quantized_share=None,
        outside_text={},
        quantization={"quant_method": "bitsandbytes", "threshold": 6.5, "skip": ["lm_head"], "nested": {"on": True}},
        n_layers=15,
        template="{prompt} “ja” oder „nein“?\n",
        layers=LAYERS,
        redundancy_neurons=CORRELATED,
        seed=7,
        libraries={"torch": "2.13.0"},
    )


def answers(generator):
    """Return answers of a readout by choices: other tokens have log-probability -inf, and nothing is left over."""
    logits = torch.from_numpy(generator.normal(size=(PROMPTS, VOCABULARY)).astype(np.float32))
    logits[:, ::2] = -torch.inf
    confidence, token = logits.double().softmax(-1).max(-1)
    log_probs, support = logits.log_softmax(-1).topk(VOCABULARY)
    return Answers(
        index=np.arange(PROMPTS),
        token=token.numpy(),
        confidence=confidence.numpy(),
        correct=token.numpy() == 3,
        support=support.numpy().astype(np.int32),
        log_probs=log_probs.numpy(),
        rest=np.full(PROMPTS, -np.inf, dtype=np.float32),
        exact=True,
    )


def activations(generator, *, rectified):
    """Return what is seen of one prompt a group, not all neurons correlated; groups without a prompt stay empty."""
    minimum, maximum = new_extremes(GROUPS, NEURONS)
    whole, parts = CorrelationSums(CORRELATED), [CorrelationSums(FOLLOWED) for _ in range(GROUPS)]
    order = generator.permutation(NEURONS)
    correlated, sample = np.sort(order[:CORRELATED]), np.sort(order[:FOLLOWED])
    for prompt in range(PROMPTS):
        seen = torch.from_numpy(generator.normal(size=(5, NEURONS))).bfloat16()
        update_extremes(minimum, maximum, seen, torch.full((5,), prompt))
        whole.update(seen[:, correlated])
        parts[prompt].update(seen[:, sample])
    return Activations(
        minimum=minimum.numpy(),
        maximum=maximum.numpy(),
        correlated=correlated,
        correlations=whole.result(),
        sample=sample,
        groups=tuple(part.result() for part in parts),
        rectified=rectified,
    )


def saliency(generator, target):
    scores, error = generator.random((4, NEURONS)), generator.random(4).astype(np.float32)
    return Saliency(
        index=np.arange(4),
        target=target[:4],
        salient=scores / scores.max(1, keepdims=True) > 0.7,
        error=error,
        nodes=np.array([4, 8, 16, 4], dtype=np.int32),
        converged=error < 0.5,
    )


def scored(generator):
    """Return one to three scored tokens after each prompt, four tokens of their distributions kept."""
    lengths = generator.integers(1, 4, PROMPTS)
    logits = torch.from_numpy(generator.normal(size=(lengths.sum(), VOCABULARY)).astype(np.float32))
    log_probs, support = logits.log_softmax(-1).topk(VOCABULARY)
    return ScoredTokens(
        index=np.arange(PROMPTS),
        lengths=lengths,
        token=support[:, 0].numpy().astype(np.int32),
        log_prob=log_probs[:, 0].numpy(),
        top=support[:, 0].numpy().astype(np.int32),
        support=support[:, :4].numpy().astype(np.int32),
        log_probs=log_probs[:, :4].half().contiguous().numpy(),
        rest=log_probs[:, 4:].logsumexp(1).numpy(),
    )


def make(seed):
    generator = np.random.default_rng(seed)
    answered = answers(generator)
    return Measurement(
        provenance=provenance(),
        answers=answered,
        activations={layer: activations(generator, rectified=layer == 3) for layer in LAYERS},
        saliency={layer: saliency(generator, answered.token) for layer in LAYERS[1:]},
        golds=("ja", "\n\x00", "“nein”") * 3,
        available=1000,
        texts={3: " “ja”", 11: "\n\x00", 1: ""},
        scored=scored(generator),
    )


@pytest.fixture(scope="session")
def measurement():
    return make(1)


@pytest.fixture(scope="session")
def newer():
    """Another measurement, to be saved over the first."""
    return make(2)


@pytest.fixture(scope="session")
def same():
    """Whether two measurements hold the same scalars and, bit for bit, the same arrays."""
    return lambda expected, obtained: bits_of(expected) == bits_of(obtained)


@pytest.fixture
def disk(tmp_path):
    """A file system of 96 KiB, in memory."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=96k", "none", str(place)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a file system can be mounted by the system's administrator only")
    yield place
    subprocess.run(["umount", str(place)], check=True)
