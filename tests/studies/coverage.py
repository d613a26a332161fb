"""Do the intervals hold the truth as often as they say? Simulated pairs of models whose true changes are known.

    python -m tests.studies.coverage [--repeats N] [--sizes 32 64 128 512] [--tokens] [--real REFERENCE CANDIDATE]

Records are drawn from a generative model and handed to `compare`, as a gate does. The tables stand in
docs/evidence/coverage.md. With `--real` the prompts of two saved measurements are the population, and samples of them
the data.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from unittest import mock

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import norm

from pytest_quantcheck.analyses import resampling
from pytest_quantcheck.analyses.calibration import adaptive_calibration_error
from pytest_quantcheck.analyses.saliency import jaccard
from pytest_quantcheck.comparing import IntervalSettings, compare
from pytest_quantcheck.comparing.answer_estimates import prompt_estimates
from pytest_quantcheck.comparing.token_estimates import token_estimates
from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.records import Activations, Answers, Correlations, Estimate, Measurement, Saliency, ScoredTokens
from pytest_quantcheck.storage import load_measurement
from tests.provenance import ANY

Floats = NDArray[np.float64]
Random = np.random.Generator

SIZES = (32, 64, 128, 512)
ATTRIBUTED = {32: 16, 64: 32, 128: 64, 512: 128}
"""Prompts attributed among so many: the dear part runs on fewer."""

EXTREMES, PAIRS = 0, 1
"""The two layers of a simulated model: one for its dead neurons, one for its correlations."""

GROUPS, TOKENS, NEURONS, FOLLOWED = 16, 12, 48, 24

MOST = 16
"""Scored tokens after a prompt at most."""

SHARED = 0.9
"""How often a neuron that fires on a prompt in one model is driven by the same thing in the other."""


@dataclass(frozen=True)
class Effect:
    """How a simulated candidate differs from its reference.

    Of the answers: `lost`, `won` and `other` are the probabilities that a right answer turns wrong, a wrong one right,
    and a wrong one into another wrong one; confidence c becomes expit(`sharpness` * logit(c) + `shift` + `noise` * z)
    with a normal z; KL is lognormal of mean `divergence` and shape `tail`. Of the layers: `same` is how often a prompt
    keeps all its salient neurons and `kept` the share of them that it keeps otherwise; `killed` and `revived` count
    neurons; `mixed` and `blurred` are the standard deviations of what is mixed in from other neurons and of noise.
    """

    name: str
    lost: float
    won: float
    other: float
    sharpness: float
    shift: float
    noise: float
    divergence: float
    tail: float
    same: float
    kept: float
    killed: int
    revived: int
    mixed: float
    blurred: float


EFFECTS = (
    Effect("null", 0.01, 0.01, 0.0, 1.0, 0.0, 0.05, 0.002, 1.5, 0.97, 0.6, 0, 0, 0.0, 0.03),
    Effect("mild", 0.10, 0.05, 0.03, 1.3, 0.1, 0.3, 0.05, 1.2, 0.55, 0.6, 12, 2, 0.02, 0.15),
    Effect("strong", 0.95, 0.0, 0.5, 1.6, -0.5, 0.6, 0.5, 1.0, 0.02, 0.2, 60, 10, 0.1, 0.4),
)

PROVENANCE = msgspec.structs.replace(
    ANY,
    model="simulated",
    dtype="float32",
    gradient_path="",
    architecture="",
    n_layers=2,
    prompt_set="simulated",
    template="",
    layers=(EXTREMES, PAIRS),
    redundancy_neurons=NEURONS,
    attribution="",
    batch_size=1,
)


def pair(effect: Effect, n: int, random: Random) -> tuple[Measurement, Measurement]:
    """Draw n prompts, and what the reference and the candidate do on them."""
    answers, saliency = answered(effect, n, random), salient(effect, ATTRIBUTED.get(n, n // 2), random)
    dead, moved = extremes(effect, n, random), correlated(effect, n, random)
    tokens, golds = written(effect, n, random), tuple(map(str, range(n)))
    reference, candidate = (
        Measurement(
            PROVENANCE,
            answers[i],
            {EXTREMES: dead[i], PAIRS: moved[i]},
            {PAIRS: saliency[i]},
            golds,
            n,
            scored=tokens[i],
        )
        for i in (0, 1)
    )
    return reference, candidate


def answered(effect: Effect, n: int, random: Random) -> tuple[Answers, Answers]:
    """Draw the answers of both models: confidence tells how likely an answer is right, not quite truly."""
    score = random.normal(0.3, 1.0, n)
    before = expit(score)
    right = random.random(n) < 0.1 + 0.7 * before
    after = expit(effect.sharpness * score + effect.shift + effect.noise * random.normal(size=n))
    chance = random.random(n)
    turned = np.where(right, chance < effect.lost, chance < effect.won)
    flipped = turned | (~right & (chance > 1 - effect.other))
    token = np.arange(n) % 2
    location = np.log(effect.divergence) - effect.tail**2 / 2
    divergence = np.exp(random.normal(location, effect.tail, n))
    return (
        _answers(token, before, right, np.full((n, 2), np.log(0.5))),
        _answers(token ^ flipped, after, right ^ turned, diverging(divergence)),
    )


def diverging(divergence: Floats) -> Floats:
    """Log-probabilities (n, 2) of (q, 1 - q) from which (1/2, 1/2) diverges by so many nats."""
    root = np.sqrt(-np.expm1(-2 * divergence))
    return np.column_stack([-2 * divergence - np.log1p(root), np.log1p(root)]) - np.log(2)


def _answers(token: NDArray[np.int64], confidence: Floats, correct: NDArray[np.bool_], log_probs: Floats) -> Answers:
    n = len(token)
    support, rest = np.tile(np.int32([0, 1]), (n, 1)), np.full(n, -np.inf, dtype=np.float32)
    return Answers(np.arange(n), token, confidence, correct, support, log_probs.astype(np.float32), rest, exact=True)


def written(effect: Effect, n: int, random: Random) -> tuple[ScoredTokens, ScoredTokens]:
    """Draw one to sixteen scored tokens after each prompt; three tenths of what moves them is their prompt's.

    KL is lognormal, as of answers; the most probable token is another one where it is large; the log-probability of
    what is written falls by a normal amount, of the same mean.
    """
    lengths = random.integers(1, MOST + 1, n)
    z = np.sqrt(0.3) * np.repeat(random.normal(size=n), lengths) + np.sqrt(0.7) * random.normal(size=lengths.sum())
    divergence = np.exp(np.log(effect.divergence) - effect.tail**2 / 2 + effect.tail * z)
    other = (z > norm.isf(effect.lost)).astype(np.int32)
    fallen = np.log(0.5) - effect.divergence * (1 + z)
    even = np.full((len(z), 2), np.log(0.5))
    return (
        _scored(lengths, even[:, 0], np.zeros_like(other), even),
        _scored(lengths, fallen, other, diverging(divergence)),
    )


def _scored(lengths: NDArray[np.int64], log_prob: Floats, top: NDArray[np.int32], log_probs: Floats) -> ScoredTokens:
    t = len(top)
    return ScoredTokens(
        index=np.arange(len(lengths)),
        lengths=lengths,
        token=np.zeros(t, dtype=np.int32),
        log_prob=log_prob.astype(np.float32),
        top=top,
        support=np.tile(np.int32([0, 1]), (t, 1)),
        log_probs=log_probs.astype(np.float16),
        rest=np.full(t, -np.inf, dtype=np.float32),
    )


def salient(effect: Effect, m: int, random: Random) -> tuple[Saliency, Saliency]:
    """Draw the salient neurons of m prompts: one to eight, of which the candidate has some and others besides."""
    width = 16
    before = np.arange(width) < random.integers(1, 9, m)[:, None]
    kept = before & (random.random((m, width)) < effect.kept)
    others = ~before & (random.random((m, width)) < 0.25 * (1 - effect.kept))
    after = np.where(random.random(m)[:, None] < effect.same, before, kept | others)
    return _saliency(before), _saliency(after)


def _saliency(masks: NDArray[np.bool_]) -> Saliency:
    m = len(masks)
    counted, error = np.zeros(m, dtype=np.int64), np.zeros(m, dtype=np.float32)
    return Saliency(np.arange(m), counted, masks, error, counted.astype(np.int32), np.ones(m, dtype=bool))


def firing(effect: Effect) -> tuple[Floats, Floats]:
    """The probability (neurons,) that a neuron leaves the dead range on a prompt, for both models.

    340 live neurons, 30 dead ones, and 30 that fire on one prompt in ten to one in ten thousand; those killed are
    mostly live ones, one in four fires rarely.
    """
    rare = np.logspace(-4, -1, 30)
    before = np.concatenate([np.full(340, 0.9), np.zeros(30), rare])
    after = before.copy()
    live = effect.killed - effect.killed // 4
    after[:live] = 0
    after[370:400:2][: effect.killed // 4] = 0
    after[340 : 340 + effect.revived] = 0.5
    return before, after


def extremes(effect: Effect, n: int, random: Random) -> tuple[Activations, Activations]:
    """Draw the layer of dead neurons; nine in ten events that only a rare neuron has are the same in both models."""
    chances = firing(effect)
    shared = random.random((n, 400))
    own = np.where(random.random((n, 400)) < SHARED, shared, random.random((n, 400)))
    records = []
    for chance, drawn in zip(chances, (shared, own), strict=True):
        fired = _by_group(drawn < chance)
        maximum = np.where(fired, 1.0, 0.0).astype(np.float32)
        records.append(_activations(np.zeros_like(maximum), maximum, np.zeros((n, TOKENS, 2)) + random.normal(size=2)))
    return records[0], records[1]


def _by_group(fired: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.array([fired[group::GROUPS].any(axis=0) for group in range(GROUPS)])


@functools.cache
def driving(effect: Effect) -> tuple[Floats, Floats]:
    """What drives the reference's neurons, as a factor of their covariance, and how the candidate's mix them."""
    random = np.random.default_rng(11)
    common = random.normal(size=(NEURONS, 6)) / np.sqrt(6)
    mixing = np.eye(NEURONS) + effect.mixed * random.normal(size=(NEURONS, NEURONS))
    return np.column_stack([common, np.eye(NEURONS) * 0.8]), mixing


def covariances(effect: Effect) -> Floats:
    """The true abs(r_candidate - r_reference) of every pair of neurons."""
    factor, mixing = driving(effect)
    before = factor @ factor.T
    after = mixing @ before @ mixing.T + effect.blurred**2 * np.eye(NEURONS)
    r = [c / np.sqrt(np.outer(np.diagonal(c), np.diagonal(c))) for c in (before, after)]
    return np.abs(r[1] - r[0])


def correlated(effect: Effect, n: int, random: Random) -> tuple[Activations, Activations]:
    """Draw the layer of correlations: tokens of a prompt share a part of what drives them, and its size."""
    factor, mixing = driving(effect)
    size = np.exp(random.normal(0, 0.4, (n, 1, 1)))
    driven = np.sqrt(0.3) * random.normal(size=(n, 1, factor.shape[1]))
    driven = size * (driven + np.sqrt(0.7) * random.normal(size=(n, TOKENS, factor.shape[1])))
    before = driven @ factor.T
    after = before @ mixing.T + size * effect.blurred * random.normal(size=before.shape)
    nowhere = np.zeros((GROUPS, NEURONS), dtype=np.float32)
    return _activations(nowhere - 1, nowhere + 1, before), _activations(nowhere - 1, nowhere + 1, after)


def _activations(minimum: NDArray[np.float32], maximum: NDArray[np.float32], values: Floats) -> Activations:
    """Activations (prompts, tokens, neurons) as the record that a measurement makes of them."""
    width = values.shape[2]
    followed = np.arange(0, width, width // min(width, FOLLOWED))
    return Activations(
        minimum=minimum,
        maximum=maximum,
        correlated=np.arange(width),
        correlations=_sums(values),
        sample=followed,
        groups=tuple(_sums(values[group::GROUPS, :, followed]) for group in range(GROUPS)),
        rectified=False,
    )


def _sums(values: Floats) -> Correlations:
    rows = values.reshape(-1, values.shape[2])
    mean = rows.mean(axis=0)
    return Correlations(len(rows), mean, ((rows - mean).T @ (rows - mean)).astype(np.float32))


@functools.cache
def population(effect: Effect) -> dict[str, float]:
    """Every metric's value over infinitely many prompts: in closed form, or over two million prompts."""
    random = np.random.default_rng(7)
    before, after = answered(effect, 2_000_000, random)
    ace = [adaptive_calibration_error(model.confidence, model.correct) for model in (before, after)]
    right = float(before.correct.mean())
    one, two = salient(effect, 1_000_000, random)
    dead = [chance == 0 for chance in firing(effect)]
    return {
        "accuracy_drop": float(before.correct.mean() - after.correct.mean()),
        "confidence_drift": abs(float((after.confidence - before.confidence).mean())),
        "ace_drift": abs(ace[1] - ace[0]),
        "kl_divergence": effect.divergence,
        "flip_rate": effect.lost * right + (effect.won + effect.other) * (1 - right),
        "token_kl": effect.divergence,
        "token_kl_p99": effect.divergence * float(np.exp(effect.tail * norm.isf(0.01) - effect.tail**2 / 2)),
        "same_top": 1 - effect.lost,
        "perplexity_ratio": float(np.exp(effect.divergence)),
        "dead_neuron_delta": abs(int(dead[1].sum()) - int(dead[0].sum())) / 400,
        "dead_neuron_churn": float((dead[0] != dead[1]).mean()),
        "faint_neuron_churn": float((dead[0] != dead[1]).mean()),  # neurons are at 0 or at the median here
        "salient_overlap": float(jaccard(one.salient, two.salient).mean()),
        "redundancy_change": float(covariances(effect)[np.triu_indices(NEURONS, 1)].mean()),
    }


def truth(effect: Effect, n: int) -> dict[str, float]:
    """What intervals should hold.

    A neuron is dead over the prompts measured, and the more there are the fewer are: dead neurons are counted as n
    prompts show them on average.
    """
    one, two = firing(effect)
    both = SHARED * np.minimum(one, two) + (1 - SHARED) * one * two
    silent = (1 - one) ** n, (1 - two) ** n, (1 - one - two + both) ** n
    churn = float((silent[0] + silent[1] - 2 * silent[2]).mean())
    return population(effect) | {
        "dead_neuron_delta": abs(float((silent[1] - silent[0]).mean())),
        "dead_neuron_churn": churn,
        "faint_neuron_churn": churn,
    }


@contextmanager
def remembered_draws() -> Iterator[None]:
    """Make the draws of one size and seed once: every comparison of a study asks for the same ones."""
    with ExitStack() as stack:
        for name in ("bootstrap_counts", "half_samples"):
            stack.enter_context(mock.patch.object(resampling, name, _remembered(getattr(resampling, name))))
        yield


def _remembered(fresh: Callable[..., Iterator[resampling.Counts]]) -> Callable[..., tuple[resampling.Counts, ...]]:
    return functools.lru_cache(maxsize=4)(lambda *asked: tuple(fresh(*asked)))


@dataclass(frozen=True)
class Coverage:
    """What became of one metric's intervals (repeats,): `low`, `high` and `value`, and the `truth` they should hold."""

    metric: str
    truth: float
    value: Floats
    low: Floats
    high: Floats

    @property
    def share(self) -> float:
        """The share that holds the truth; what rounding of the truth itself may miss is held."""
        return float(np.mean((self.low <= self.truth + 1e-9) & (self.truth - 1e-9 <= self.high)))

    @property
    def half_width(self) -> float:
        """Mean half width."""
        return float((self.high - self.low).mean() / 2)

    @property
    def bias(self) -> float:
        """How far values lie above the truth on average."""
        return float(self.value.mean() - self.truth)


def simulate(
    effect: Effect, n: int, repeats: int, sampling: IntervalSettings, *, tokens: bool = False
) -> Iterator[Coverage]:
    """Compare so many pairs of models on n prompts each; by metrics of scored tokens alone if `tokens`."""
    seeds = np.random.SeedSequence([EFFECTS.index(effect), n]).spawn(repeats)
    pairs = (pair(effect, n, np.random.default_rng(seed)) for seed in seeds)
    with remembered_draws():
        compared = [
            list(token_estimates(*models, sampling)) if tokens else compare(*models, sampling).estimates
            for models in pairs
        ]
    estimated = {estimate.metric for estimate in compared[0]}
    for metric, expected in truth(effect, n).items():
        if metric in estimated:
            yield tally([_of(metric, estimates) for estimates in compared], expected)


def _of(metric: str, estimates: Iterable[Estimate]) -> Estimate:
    layer = EXTREMES if "_neuron_" in metric else PAIRS
    return next(e for e in estimates if e.metric == metric and e.layer in (None, layer))


def tally(estimates: Sequence[Estimate], truth: float) -> Coverage:
    """Gather many estimates of one thing; those without a value, as of too few tokens, claim nothing."""
    made = [estimate for estimate in estimates if estimate.value is not None]
    columns = (np.array([getattr(e, name) for e in made], dtype=np.float64) for name in ("value", "low", "high"))
    return Coverage(estimates[0].metric, truth, *columns)


def resample(
    reference: Measurement, candidate: Measurement, n: int, repeats: int, sampling: IntervalSettings
) -> Iterator[Coverage]:
    """Draw so many samples of n prompts from measured ones and estimate metrics of answers and tokens on each.

    Prompts are drawn with replacement: what was measured is the whole population, and drawing does not use it up.
    """
    whole = _of_prompts((reference, candidate), sampling)
    random = np.random.default_rng(n)
    found = []
    with remembered_draws():
        for _ in range(repeats):
            rows = random.integers(0, len(reference.answers.index), n)
            found.append(_of_prompts([_drawn(model, rows) for model in (reference, candidate)], sampling))
    for true, estimates in zip(whole, zip(*found, strict=True), strict=True):
        assert true.value is not None
        yield tally(estimates, true.value)


def _of_prompts(models: Sequence[Measurement], sampling: IntervalSettings) -> list[Estimate]:
    return [*prompt_estimates(*models, sampling), *token_estimates(*models, sampling)]


def _drawn(model: Measurement, rows: NDArray[np.int64]) -> Measurement:
    """Take the answers of some rows, and the tokens that were scored after them."""
    answers, scored = model.answers, model.scored
    picked = {f.name: getattr(answers, f.name)[rows] for f in fields(answers) if f.name != "exact"}
    if scored is not None:
        starts = np.cumsum(scored.lengths) - scored.lengths
        tokens = np.concatenate([starts[row] + np.arange(scored.lengths[row]) for row in rows])
        scored = ScoredTokens(
            **{
                f.name: getattr(scored, f.name)[rows if f.name in {"index", "lengths"} else tokens]
                for f in fields(scored)
            }
        )
    return replace(model, answers=Answers(**picked, exact=answers.exact), scored=scored)


def cell(found: Coverage) -> str:
    """Coverage in per cent, the mean half width, and the bias in half widths; a dash where nothing was estimated."""
    if not len(found.value):
        return "-"
    bias = found.bias / found.half_width if found.half_width else 0.0
    return f"{100 * found.share:.1f} (±{found.half_width:.3g}, {bias:+.2f})"


def simulated_table(sizes: Sequence[int], repeats: int, sampling: IntervalSettings, *, tokens: bool) -> Iterator[str]:
    """Yield a Markdown table of every metric, or those of `tokens`, by size and effect, line by line."""
    found = {
        (effect.name, n): {one.metric: one for one in simulate(effect, n, repeats, sampling, tokens=tokens)}
        for effect in EFFECTS
        for n in sizes
    }
    yield "| metric | prompts | " + " | ".join(effect.name for effect in EFFECTS) + " |"
    yield "|---|---|" + "---|" * len(EFFECTS)
    for metric in next(iter(found.values())):
        for n in sizes:
            prompts = ATTRIBUTED[n] if metric == "salient_overlap" else n
            cells = [cell(found[effect.name, n][metric]) for effect in EFFECTS]
            yield f"| {METRICS[metric].title} | {prompts} | " + " | ".join(cells) + " |"


def resampled_table(
    models: Sequence[Path], sizes: Sequence[int], repeats: int, sampling: IntervalSettings
) -> Iterator[str]:
    """Yield a Markdown table of two saved measurements' metrics of answers and tokens by size."""
    reference, candidate = map(load_measurement, models)
    found = [list(resample(reference, candidate, n, repeats, sampling)) for n in sizes]
    yield "| metric | value | " + " | ".join(f"{n} prompts" for n in sizes) + " |"
    yield "|---|---|" + "---|" * len(sizes)
    for row in zip(*found, strict=True):
        yield f"| {METRICS[row[0].metric].title} | {row[0].truth:.4f} | " + " | ".join(map(cell, row)) + " |"


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--draws", type=int, default=400, help="a gate makes 2000")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--tokens", action="store_true", help="metrics of scored tokens alone: minutes, not hours")
    parser.add_argument("--real", type=Path, nargs=2, metavar=("REFERENCE", "CANDIDATE"))
    return parser.parse_args(words)


def main() -> None:
    """Print a table."""
    asked = parse()
    sampling = IntervalSettings(draws=asked.draws)
    resampled = asked.real and resampled_table(asked.real, asked.sizes, asked.repeats, sampling)
    for line in resampled or simulated_table(asked.sizes, asked.repeats, sampling, tokens=asked.tokens):
        print(line, flush=True)


if __name__ == "__main__":
    main()
