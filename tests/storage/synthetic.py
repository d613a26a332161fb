"""Measurements of any shape, made from random activations through the accumulators that real ones go through."""

import numpy as np
import torch

from pytest_quantcheck.analyses.correlation_sums import CorrelationSums
from pytest_quantcheck.analyses.dead_neurons import new_extremes, update_extremes
from pytest_quantcheck.analyses.draws import seeded_neurons
from pytest_quantcheck.measuring.scored import SUPPORT
from pytest_quantcheck.options.values import FEWEST_NEURONS
from pytest_quantcheck.records import Activations, Answers, Measurement, Saliency, ScoredTokens
from tests.provenance import ANY

GROUPS, LAYERS = 16, (0, 15, 31)


def synthetic(*, prompts, width, correlated, tokens=1024, support=1024, vocabulary=32_000, noise=0.0):
    """Return what a bfloat16 model of three layers could have done; another `noise` is another model.

    With fewer `correlated` neurons it is what the same model gives where fewer are asked for.
    """
    layers = {layer: activations(layer, width, correlated, tokens, noise) for layer in LAYERS}
    values = {"layers": LAYERS, "n_layers": 32, "redundancy_neurons": min(correlated, width), "seed": 3}
    return Measurement(
        provenance=type(ANY)(**{name: getattr(ANY, name) for name in ANY.__struct_fields__} | values),
        answers=answers(prompts, support, vocabulary, noise),
        activations=layers,
        saliency={layer: saliency(min(prompts, 64), width) for layer in LAYERS},
        golds=tuple(map(str, range(prompts))),
        available=prompts,
        scored=scored(prompts, vocabulary, noise),
    )


def answers(n, k, vocabulary, noise):
    """Return a share of the vocabulary for each prompt, from the most probable token on."""
    generator = np.random.default_rng(0)
    logits = np.sort(generator.normal(size=(n, k)) * 3, axis=1)[:, ::-1] + noise * generator.normal(size=(n, k))
    log_probs = (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)) - 0.01).astype(np.float32)
    start = generator.integers(vocabulary, size=(n, 1))
    return Answers(
        index=np.arange(n),
        token=start[:, 0],
        confidence=np.exp(log_probs[:, 0].astype(np.float64)),
        correct=generator.random(n) < 0.7,
        support=((start + 7 * np.arange(k)) % vocabulary).astype(np.int32),
        log_probs=log_probs,
        rest=np.log1p(-np.exp(log_probs.astype(np.float64)).sum(axis=1)).astype(np.float32),
        exact=False,
    )


def scored(n, vocabulary, noise):
    """Return sixteen scored tokens after each prompt."""
    whole = answers(n * 16, SUPPORT, vocabulary, noise)
    return ScoredTokens(
        index=np.arange(n),
        lengths=np.full(n, 16),
        token=whole.support[:, 0],
        log_prob=whole.log_probs[:, 0],
        top=whole.support[:, 0],
        support=whole.support,
        log_probs=whole.log_probs.astype(np.float16),
        rest=whole.rest,
    )


def activations(layer, width, correlated, tokens, noise):
    """Return one layer's: neurons that share a few causes, the first of them constant."""
    generator = torch.Generator().manual_seed(layer)
    causes = torch.randn(tokens, 24, generator=generator) @ torch.randn(24, width, generator=generator)
    own = torch.randn(tokens, width, generator=generator)
    seen = (causes / 24**0.5 + own + noise * own.roll(1, 0)).bfloat16()
    seen[:, 0] = 0.5
    groups = torch.arange(tokens) % GROUPS
    minimum, maximum = new_extremes(GROUPS, width)
    update_extremes(minimum, maximum, seen, groups)
    kept, followed = (seeded_neurons(width, n, seed=3) for n in (correlated, min(correlated, FEWEST_NEURONS)))
    return Activations(
        minimum=minimum.numpy(),
        maximum=maximum.numpy(),
        correlated=kept,
        correlations=sums(seen[:, kept]),
        sample=followed,
        groups=tuple(sums(seen[groups == group][:, followed]) for group in range(GROUPS)),
        rectified=False,
    )


def sums(seen):
    """Return the correlation sums of activations (tokens, neurons)."""
    accumulator = CorrelationSums(seen.shape[1])
    accumulator.update(seen)
    return accumulator.result()


def saliency(m, width):
    """Return one neuron in a hundred as salient, for m prompts."""
    generator = np.random.default_rng(1)
    return Saliency(
        index=np.arange(m),
        target=generator.integers(100, size=m),
        salient=generator.random((m, width)) < 0.01,
        error=generator.random(m).astype(np.float32) / 100,
        nodes=np.full(m, 8, dtype=np.int32),
        converged=np.ones(m, dtype=bool),
    )
