"""How much of the divergence at scored tokens do the reference's k most probable tokens keep?

    python -m tests.studies.support MODEL [--bits int8 nf4] [--prompts FILE] [--template TEXT] [--samples N]

Both models are measured with the whole vocabulary as support; of that, the first k tokens are kept and all others made
one. The table stands in docs/decisions/0013-scored-tokens.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from unittest import mock

import numpy as np
from scipy.special import logsumexp

from pytest_quantcheck.analyses.divergence import kl_on_support
from pytest_quantcheck.measuring import Plan, measure, scored
from pytest_quantcheck.models.loading import load
from pytest_quantcheck.models.source import Source
from pytest_quantcheck.options.attribution import AttributionMethod
from pytest_quantcheck.prompts import PromptSet, read_prompts
from pytest_quantcheck.records import ScoredTokens

SIZES = (8, 16, 32, 64, 128, 256, 1024)
MOST = 16


class Kept(NamedTuple):
    """What a support of `k` tokens keeps of the divergence over all: of its mean, its 99th percentile, each in nats."""

    bits: str
    k: int
    mean: float
    of_mean: float
    p99: float
    of_p99: float


def kept_by(model: str, prompts: PromptSet, bits: Sequence[str], sizes: Sequence[int] = SIZES) -> Iterator[Kept]:
    """Measure a model and its candidates, and yield what each size keeps."""
    plan = Plan(layers=(0,), attribution=AttributionMethod("off"), continuation=MOST, redundancy_neurons=256)
    with mock.patch.object(scored, "SUPPORT", 2**31 - 1):
        with load(Source(model)) as loaded:
            reference = measure(loaded, prompts, plan, model=model)
        for name in bits:
            with load(Source(model), name) as loaded:
                candidate = measure(loaded, prompts, plan, model=model, reference=reference)
            assert reference.scored is not None
            assert candidate.scored is not None
            whole = divergence(reference.scored, candidate.scored, reference.scored.support.shape[1])
            for k in sizes:
                some = divergence(reference.scored, candidate.scored, k)
                p99, of_p99 = (float(np.quantile(values, 0.99)) for values in (some, whole))
                yield Kept(name, k, float(some.mean()), float(some.mean() / whole.mean()), p99, p99 / of_p99)


def divergence(reference: ScoredTokens, candidate: ScoredTokens, k: int) -> np.ndarray:
    """Measure the divergence at each scored token, of the first k tokens of the support and the others as one."""
    (first, rest), (second, others) = (
        (one.log_probs[:, :k], logsumexp(np.column_stack([one.log_probs[:, k:], one.rest]).astype(np.float64), axis=1))
        for one in (reference, candidate)
    )
    return kl_on_support(first, rest, second, others)


def main() -> None:
    """Print the table of one model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--bits", nargs="+", default=["int8", "nf4"])
    parser.add_argument("--prompts", default="builtin")
    parser.add_argument("--template", default="auto")
    parser.add_argument("--samples", type=int, default=64)
    asked = parser.parse_args()
    prompts = read_prompts(asked.prompts, template=asked.template, samples=asked.samples, seed=0)
    print("| candidate | k | mean, nats | kept | 99th percentile, nats | kept |")
    print("|---|---|---|---|---|---|")
    for one in kept_by(asked.model, prompts, asked.bits):
        print(f"| {one.bits} | {one.k} | {one.mean:.5f} | {one.of_mean:.1%} | {one.p99:.4f} | {one.of_p99:.1%} |")


if __name__ == "__main__":
    main()
