"""The records that the packages exchange: frozen and typed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from pytest_quantcheck.metric_names import MetricName
from pytest_quantcheck.metrics import find_metric
from pytest_quantcheck.profiles.profile import Profile

SCHEMA = 9
"""Version of the measurement's file format; a measurement of another schema is not compared."""

REFERENCE, RELEASED = "reference", "released"
"""What a model is loaded as, besides bit-widths: the reference in its own float format; a checkpoint that is already
quantized, as its own configuration says."""

Status = Literal["passed", "failed", "inconclusive", "unmeasured"]
WORST_FIRST: tuple[Status, ...] = ("failed", "unmeasured", "inconclusive", "passed")


class QuantizedShare(msgspec.Struct, frozen=True, kw_only=True):
    """Which part of a model's weights is quantized."""

    parameters: int
    """All weights; biases and scales are not counted."""
    quantized: int
    """Those that are quantized."""
    bytes: int | None
    """Bytes of all weights and scales: in the files of a released checkpoint, else in memory.

    None of a checkpoint whose weights are pickled.
    """
    quantized_bytes: int | None
    """Bytes of the quantized weights and their scales."""
    block_parameters: int
    """Weights of the matrices in the model's blocks."""
    block_quantized: int
    """Those that are quantized."""
    largest_plain: dict[str, int]
    """The weights of the largest parts that are not quantized, largest first; `*` stands for each block."""


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """Where a measurement comes from.

    `compatibility.py` says what a difference in each field means. `bits`: what the model was loaded as: `reference`, a
    bit-width, or `released` for a checkpoint that is already quantized; `format`: how its weights are quantized, `none`
    where they are not; `outside_text`: the weights of each part that text does not reach, such as a vision tower;
    `width`: of the hidden states; `configuration`: what decides how the model is computed and served, by names such as
    `config.rms_norm_eps`, of vocabulary, added tokens and chat template the SHA-256; `content_hash`: SHA-256 over the
    model's files; `encoding_hash`: over the token ids of every prompt of the set as the model reads it; `continuation`:
    most tokens by which the reference continued a prompt, 0 for none; `shard`: number and count of the shard that was
    measured alone, None for a whole set.
    """

    model: str
    bits: str
    revision: str | None
    content_hash: str | None
    dtype: str
    format: str
    module_types: dict[str, int]
    quantization: dict[str, Any] | None
    quantized_share: QuantizedShare | None
    outside_text: dict[str, int]
    gradient_path: str
    architecture: str
    n_layers: int
    width: int
    configuration: dict[str, str]
    encoding_hash: str
    prompt_set: str
    prompt_hash: str
    template: str
    readout: str
    layers: tuple[int, ...]
    redundancy_neurons: int
    attribution: str
    continuation: int
    seed: int
    batch_size: int
    shard: tuple[int, int] | None
    device: str
    libraries: dict[str, str]


@dataclass(frozen=True, eq=False)
class Answers:
    """The answers of a model, prompt by prompt."""

    index: NDArray[np.int64]
    """(n,): position of the prompt in its prompt set, ascending."""
    token: NDArray[np.int64]
    """(n,): the answer's token id."""
    confidence: NDArray[np.float64]
    """(n,): probability of the answer, in [0, 1]."""
    correct: NDArray[np.bool_]
    """(n,): whether the answer is the gold one."""
    support: NDArray[np.int32]
    """(n, k): token ids of the *reference's* k most probable tokens."""
    log_probs: NDArray[np.float32]
    """(n, k): this model's log-probabilities of those."""
    rest: NDArray[np.float32]
    """(n,): log-probability of all other tokens."""
    exact: bool
    """The support is the whole distribution, so that `rest` is -inf."""


@dataclass(frozen=True, eq=False)
class ScoredTokens:
    """What a model thinks of the tokens that the reference wrote.

    There are t, after n prompts, prompt by prompt. Each is predicted from the prompt and the reference's tokens before
    it.
    """

    index: NDArray[np.int64]
    """(n,): position of the prompt in its prompt set, ascending."""
    lengths: NDArray[np.int64]
    """(n,): scored tokens after each prompt, at least one."""
    token: NDArray[np.int32]
    """(t,): the token id that the reference wrote."""
    log_prob: NDArray[np.float32]
    """(t,): this model's log-probability of it, in nats."""
    top: NDArray[np.int32]
    """(t,): this model's most probable token."""
    support: NDArray[np.int32]
    """(t, k): token ids of the *reference's* k most probable tokens."""
    log_probs: NDArray[np.float16]
    """(t, k): this model's log-probabilities of those."""
    rest: NDArray[np.float32]
    """(t,): log-probability of all other tokens."""

    def of(self, prompt: int) -> slice:
        """Find the scored tokens after the prompt at a position."""
        row = int(np.searchsorted(self.index, prompt))
        first = int(self.lengths[:row].sum())
        return slice(first, first + int(self.lengths[row]))

    def after(self, prompt: int) -> list[int]:
        """List the tokens after the prompt at a position."""
        return [int(token) for token in self.token[self.of(prompt)]]


@dataclass(frozen=True, eq=False)
class Correlations:
    """Sums from which Pearson correlations of d neurons follow.

    Sums of disjoint tokens can be merged.

    `count`: tokens seen; `mean` (d,) float64; `comoment` (d, d) float32: sum over tokens of the products of
    deviations from the mean.
    """

    count: int
    mean: NDArray[np.float64]
    comoment: NDArray[np.float32]

    def of(self, neurons: NDArray[np.int64]) -> Correlations:
        """Select the sums of the neurons at places (k,), in that order."""
        return Correlations(self.count, self.mean[neurons], self.comoment[np.ix_(neurons, neurons)])


@dataclass(frozen=True, eq=False)
class Activations:
    """Activations of one layer's d neurons over all non-padding tokens.

    Prompts fall into g groups (position in the prompt set modulo g) from which intervals are made.
    """

    minimum: NDArray[np.float32]
    """(g, d): each neuron's smallest activation within a group, +inf where a group is empty."""
    maximum: NDArray[np.float32]
    """(g, d): each neuron's largest activation within a group, -inf where a group is empty."""
    correlated: NDArray[np.int64]
    """(c,), ascending: the neurons that are correlated, all or a seeded sample."""
    correlations: Correlations
    """Correlations of these over all tokens."""
    sample: NDArray[np.int64]
    """(s,): the correlated neurons that are followed in each group."""
    groups: tuple[Correlations, ...]
    """Correlations of the followed ones, one entry for each of the g groups."""
    rectified: bool
    """The activation function is of the ReLU family."""


@dataclass(frozen=True, eq=False)
class Experts:
    """What the routed experts of one layer did; a token counts for the k experts that it is routed to.

    An expert that no token reached has extremes of no tokens and a correlation count of 0.
    """

    neurons: tuple[Activations, ...]
    """Each expert's, by its number."""
    chosen: NDArray[np.int16]
    """(t, k): the experts of each token, in any order, prompt by prompt."""
    lengths: NDArray[np.int64]
    """(n,): number of tokens of each prompt, in the order of the prompt set."""

    def by_prompt(self) -> list[NDArray[np.int16]]:
        """List the experts of each prompt's tokens, (tokens, k)."""
        return np.split(self.chosen, np.cumsum(self.lengths)[:-1])


@dataclass(frozen=True, eq=False)
class Saliency:
    """Salient neurons of one layer of d neurons, for m prompts.

    Of a mixture of experts the neurons are those of all experts, expert by expert, and then those that every token
    passes.
    """

    index: NDArray[np.int64]
    """(m,): positions in the prompt set."""
    target: NDArray[np.int64]
    """(m,): token whose log-probability was attributed."""
    salient: NDArray[np.bool_]
    """(m, d): whether a neuron is salient."""
    error: NDArray[np.float32]
    """(m,): relative completeness error."""
    nodes: NDArray[np.int32]
    """(m,): quadrature nodes used."""
    converged: NDArray[np.bool_]
    """(m,): whether the error became small enough."""


@dataclass(frozen=True, eq=False)
class Measurement:
    """What one model did on one prompt set.

    Measurements of disjoint shards merge into that of the whole. `activations`: by layer, of FFNs that every token
    passes; `experts`: by layer, of those that some tokens are routed to; a layer may have both. `golds`: the gold
    answer of every prompt of the set, also of those that this shard, or a prompt of the same tokens, leaves out;
    `available`: prompts of its source, of which the set may be a sample; `texts`: the text of each token that was an
    answer, was written by the reference or is most probable there; `scored`: the reference's continuations, None where
    none were made.
    """

    provenance: Provenance
    answers: Answers
    activations: dict[int, Activations]
    saliency: dict[int, Saliency]
    golds: tuple[str, ...]
    available: int
    texts: dict[int, str] = field(default_factory=dict)
    experts: dict[int, Experts] = field(default_factory=dict)
    scored: ScoredTokens | None = None

    def ffns(self, layer: int) -> tuple[Activations, ...]:
        """List what each FFN of a layer did: its routed experts, then the FFN that every token passes."""
        experts, shared = self.experts.get(layer), self.activations.get(layer)
        return (*(experts.neurons if experts else ()), *((shared,) if shared else ()))

    def text_of(self, token: int) -> str:
        """Write a token as text; where that is not known, by its id."""
        return self.texts.get(int(token), f"token {token}")

    def with_ffns(self, layer: int, ffns: Sequence[Activations]) -> Measurement:
        """Put others in the place of a layer's FFNs, in their order."""
        changes: dict[str, Any] = {}
        if layer in self.activations:
            *ffns, shared = ffns
            changes["activations"] = {**self.activations, layer: shared}
        if layer in self.experts:
            changes["experts"] = {**self.experts, layer: replace(self.experts[layer], neurons=tuple(ffns))}
        return replace(self, **changes)


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """One metric's value and confidence interval, on one prompt set and layer.

    `value`, `low` and `high` are finite or None; None means that nothing could be measured, and `reason` says
    why. `applicable` is False where the metric is not defined for the reference at this layer: the layer is left out.
    `reference` and `candidate` are the two models' own values where the metric is a difference of two.
    """

    metric: MetricName
    layer: int | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    confidence: float
    n_prompts: int
    method: str
    reference: float | None = None
    candidate: float | None = None
    applicable: bool = True
    reason: str = ""
    details: dict[str, float] = {}


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One model's answer to one prompt: text, confidence in [0, 1], and correctness."""

    text: str
    confidence: float
    correct: bool


class Flip(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt that two models answer differently; `index` is its position in the prompt set."""

    index: int
    reference: Answer
    candidate: Answer


class ScoredToken(msgspec.Struct, frozen=True, kw_only=True):
    """One scored token: the text that the reference wrote, and the candidate's most probable one.

    `divergence`: token KL there, in nats.
    """

    written: str
    top: str
    divergence: float


class Passage(msgspec.Struct, frozen=True, kw_only=True):
    """The scored tokens after the prompt at position `index`; `divergence`: their mean token KL, in nats."""

    index: int
    divergence: float
    tokens: tuple[ScoredToken, ...]


class PlaceDivergence(msgspec.Struct, frozen=True, kw_only=True):
    """Token KL at some places of all passages.

    `first` and `last`: these places, counted from 1; `count`: tokens there; `mean` and `p95`: their mean and 95th
    percentile, in nats.
    """

    first: int
    last: int
    count: int
    mean: float
    p95: float


class TokenDivergence(msgspec.Struct, frozen=True, kw_only=True):
    """Where a candidate is far from its reference on scored tokens.

    `percentiles`: of token KL over all of them in nats, by percentage as text, `100` the largest; `places`: from the
    first token of a passage to the last; `worst`: the passages with the largest mean, worst first.
    """

    percentiles: dict[str, float]
    places: tuple[PlaceDivergence, ...]
    worst: tuple[Passage, ...]


class ReliabilityBin(msgspec.Struct, frozen=True, kw_only=True):
    """A bin of the ACE: number of prompts, mean confidence and accuracy."""

    count: int
    confidence: float
    accuracy: float


class Convergence(msgspec.Struct, frozen=True, kw_only=True):
    """Quality of one model's attributions at one layer.

    `attributed`: prompts tried; `converged`: those whose completeness error became small enough; `median_nodes` and
    `median_error`: over those tried, None where there is no finite one.
    """

    attributed: int
    converged: int
    median_nodes: float | None
    median_error: float | None


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What a prompt set and the reference's answers to it can show.

    `prompts`: of the set; `available`: of its source; `inputs`: those that are different tokens, which are measured;
    `accuracy`: of the reference, in [0, 1]; `answers`: distinct ones of the reference; `golds`: distinct gold answers,
    whatever their capitals; `commonest`: the most frequent gold, and `share` its share of the inputs; `lacking`: for
    each metric of answers that this reference cannot show to move, why.
    """

    prompts: int
    available: int
    inputs: int
    accuracy: float
    answers: int
    golds: int
    commonest: str
    share: float
    lacking: dict[str, str] = {}


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Reference against candidate on one prompt set: every metric's estimates.

    `identical`: all answers and activations are equal, as if the candidate were never quantized.
    `histograms` maps a layer to the counts of abs(r) in ten bins for `reference` and `candidate`; `reliability` has
    the bins of both, least confident first, none where there are fewer prompts than bins; `convergence` maps a layer
    to that of each model that was attributed there; `flips` are in the order of the prompt set. `profile` is what the
    gate that made the comparison judges it by. `conditions`: versions of libraries, device or batches in
    which the two measurements differ. `evidence` is None in a record that `compare` did not make. `token_divergence`
    is None where no tokens were scored, or where token KL is infinite.
    """

    candidate: str
    prompt_set: str
    n_prompts: int
    estimates: tuple[Estimate, ...]
    identical: bool
    reference_provenance: Provenance
    candidate_provenance: Provenance
    histograms: dict[int, dict[str, tuple[int, ...]]]
    reliability: dict[str, tuple[ReliabilityBin, ...]] = {}
    convergence: dict[int, dict[str, Convergence]] = {}
    flips: tuple[Flip, ...] = ()
    profile: Profile | None = None
    conditions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    evidence: Evidence | None = None
    token_divergence: TokenDivergence | None = None

    def of(self, metric: MetricName) -> tuple[Estimate, ...]:
        """Return the estimates of one metric, one for each layer.

        Raises:
            MetricError: there is no such metric.
        """
        find_metric(metric)
        return tuple(estimate for estimate in self.estimates if estimate.metric == metric)


class NotRun(msgspec.Struct, frozen=True, kw_only=True):
    """Packaged tests of one candidate or control that a run left out.

    `tests`: their node ids; `whole`: no test of it was run.
    """

    candidate: str
    tests: tuple[str, ...]
    whole: bool


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """A profile's decision on one metric of one candidate and prompt set.

    `estimate` is the one that decided (the worst layer). `acceptable` is the outcome after the profile's rule for
    inconclusive verdicts and the user's permission to be unmeasured; `warning` is set where these accept a verdict that
    is not `passed`; `prompts_needed`: how many would settle an inconclusive verdict, and `prompts_available` how many
    the set's source has, None where it is not known; `conditions` are the comparison's.
    """

    metric: MetricName
    candidate: str
    prompt_set: str
    status: Status
    acceptable: bool
    warning: bool
    estimate: Estimate
    limit: float
    direction: Literal["max", "min"]
    limit_source: str
    profile: str
    prompts_needed: int | None = None
    prompts_available: int | None = None
    conditions: tuple[str, ...] = ()
