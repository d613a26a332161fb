"""The only list of metrics: one row says everything that the package knows about a metric."""

import math
from collections.abc import Collection
from typing import Literal, NamedTuple

from pytest_quantcheck.errors import MetricError
from pytest_quantcheck.metric_names import MetricName
from pytest_quantcheck.text import ONE_OF_THESE, nearest, nearest_first

_FROM_WORST = 0.001
"""Least distance of a limit from the worst possible value: one prompt of the thousand that a run measures by default.

Hardly a value but the worst itself is beyond a limit that is closer.
"""

Need = Literal[
    "answers", "golds", "activations", "correlations", "attributions", "routing", "scored tokens", "many prompts"
]
"""Data that a metric is estimated from; `routing`: only a mixture of experts has it; `many prompts`: with few prompts
there is no estimate, or no interval."""


class ModelsFigure(NamedTuple):
    """A figure of each model's own quantity: bars, or lines over the layers of a layered metric."""

    title: str
    note: str
    axis: str = ""


class Metric(NamedTuple):
    """One quantity that a comparison estimates and a profile limits."""

    name: MetricName
    title: str
    meaning: str
    """With the title: what the value is, to readers who have not read the paper."""
    definition: str
    """How it is computed."""
    direction: Literal["max", "min"]
    """The side of the limit that fails: `"max"`: a value above the limit fails, `"min"`: a value below it does."""
    needs: tuple[Need, ...]
    layered: bool = False
    """It has one estimate for each measured layer."""
    unit: str = ""
    least: float = 0.0
    """The range of the value begins here, in `unit`; a metric that fails below its limit has a range from 0 to 1."""
    most: float = 1.0
    """The range ends here."""
    loosest: float = math.inf
    """The largest limit of a metric whose range has no end."""
    fewest: int = 1
    """How many attributed prompts it takes, where it needs attributions."""
    figure: ModelsFigure | Literal["change"] | None = None
    """How the HTML page draws it: `"change"` is the value with its interval over the layers, None no figure."""

    @property
    def failing_side(self) -> str:
        """The side of the limit on which a value fails: `above` or `below`."""
        return "above" if self.direction == "max" else "below"

    @property
    def more_evidence(self) -> str:
        """The option that gives this metric more evidence, without its prefix."""
        return "attribution-samples" if "attributions" in self.needs else "samples"

    @property
    def limit_range(self) -> tuple[float, float]:
        """The smallest and the largest limit that can both pass and fail."""
        if self.direction == "min":
            return self.least + _FROM_WORST, self.most
        return max(0.0, self.least), min(self.most - _FROM_WORST, self.loosest)

    @property
    def limits(self) -> str:
        """The range of limits in words, and why it ends there."""
        smallest, largest = self.limit_range
        worst = self.most if self.direction == "max" else self.least
        never = f"it is never {self.failing_side} {worst:g}"
        why = "a model that only guesses could keep a larger one" if math.isinf(worst) else never
        return f"of at least {smallest:g} and at most {largest:g} ({why})"

    def can_limit(self, value: float) -> bool:
        """Say whether a limit can both pass and fail."""
        smallest, largest = self.limit_range
        return smallest <= value <= largest


_ALL = (
    Metric(
        "accuracy_drop",
        "accuracy drop",
        "share of right answers that was lost",
        "mean(correct) of the reference minus mean(correct) of the candidate",
        "max",
        ("answers", "golds"),
        least=-1.0,
        figure=ModelsFigure("Accuracy", "share of right answers (as the paper's Figure 1)"),
    ),
    Metric(
        "confidence_drift",
        "confidence drift",
        "how far the mean confidence moved",
        "absolute difference of the mean confidences, up or down",
        "max",
        ("answers",),
        figure=ModelsFigure("Confidence", "mean probability of the answer given (as the paper's Figure 2)"),
    ),
    Metric(
        "ace_drift",
        "ACE drift",
        "how far the gap between confidence and accuracy moved",
        "absolute difference of the adaptive calibration errors (ten equal-count bins), up or down",
        "max",
        ("answers", "golds", "many prompts"),
        figure=ModelsFigure(
            "Calibration error (ACE)", "mean gap between confidence and accuracy (as the paper's Figure 3)"
        ),
    ),
    Metric(
        "kl_divergence",
        "KL divergence",
        "how far the probabilities of the answers moved",
        "mean KL(reference, candidate) of the answer distributions",
        "max",
        ("answers",),
        unit="nats",
        most=math.inf,
        # A candidate that gives every token the same probability is at most ln(vocabulary) away from any reference:
        # 10.4 for 32,000 tokens, 12.5 for 262,144. What quantization ruins is at 4.5 (3 bits, default@2).
        loosest=10.0,
    ),
    Metric(
        "flip_rate",
        "flip rate",
        "share of prompts that get another answer",
        "share of prompts whose most probable answer token is another one",
        "max",
        ("answers",),
    ),
    Metric(
        "token_kl",
        "token KL",
        "how far the probabilities of what is written moved",
        "mean KL(reference, candidate) at the tokens that the reference writes after the prompts",
        "max",
        ("scored tokens",),
        unit="nats",
        most=math.inf,
        loosest=10.0,  # as of the KL divergence of answers
    ),
    Metric(
        "token_kl_p99",
        "token KL p99",
        "how far the probabilities moved at one token in a hundred",
        "99th percentile of KL(reference, candidate) over the tokens that the reference writes after the prompts",
        "max",
        ("scored tokens", "many prompts"),
        unit="nats",
        most=math.inf,
        loosest=10.0,
    ),
    Metric(
        "same_top",
        "same top token",
        "share of tokens that both models find most probable",
        "share of the places at which the reference writes a token where both models' most probable token is the same",
        "min",
        ("scored tokens",),
    ),
    Metric(
        "perplexity_ratio",
        "perplexity ratio",
        "how much more the reference's own text surprises the candidate",
        "exp(mean log-probability of the tokens that the reference writes, under the reference minus under the "
        "candidate)",
        "max",
        ("scored tokens",),
        most=math.inf,
        # A candidate that gives every token the same probability is at vocabulary / perplexity of the reference: above
        # 1,000 for 32,000 tokens.
        loosest=100.0,
        figure=ModelsFigure("Perplexity", "of the tokens that the reference writes"),
    ),
    Metric(
        "dead_neuron_delta",
        "dead-neuron delta",
        "change in the share of neurons that never fire",
        "absolute difference of a layer's numbers of dead neurons, divided by its number of neurons",
        "max",
        ("activations",),
        layered=True,
        figure=ModelsFigure("Dead neurons", "share of a layer's neurons that never fire", "share of neurons"),
    ),
    Metric(
        "dead_neuron_churn",
        "dead-neuron churn",
        "share of neurons that died or came to life",
        "share of a layer's neurons that are dead in one model only; equal counts can hide different neurons",
        "max",
        ("activations",),
        layered=True,
        figure="change",
    ),
    Metric(
        "faint_neuron_churn",
        "faint-neuron churn",
        "share of neurons that fell silent or rose, for their layer",
        "share of a layer's neurons that are faint in one model only, on the scale of the reference's layer",
        "max",
        ("activations",),
        layered=True,
        figure="change",
    ),
    Metric(
        "salient_overlap",
        "salient-neuron overlap",
        "share of the neurons behind an answer that stayed the same",
        "mean Jaccard index of the two models' salient neurons in a layer, over prompts",
        "min",
        ("answers", "attributions"),
        layered=True,
        fewest=5,
        figure="change",
    ),
    Metric(
        "redundancy_change",
        "redundancy change",
        "how far the correlations between neurons moved",
        "mean absolute difference of the correlations between a layer's neurons",
        "max",
        ("activations", "correlations"),
        layered=True,
        most=2.0,
        figure="change",
    ),
    Metric(
        "router_agreement",
        "router agreement",
        "share of the experts chosen for a token that stayed the same",
        "mean Jaccard index of the experts that both models choose for a token in a layer, over prompts",
        "min",
        ("routing",),
        layered=True,
        figure="change",
    ),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}


def find_metric(name: str) -> Metric:
    """Look up the metric of a name.

    Raises:
        MetricError: there is no such metric; lists those there are, the most similar first.
    """
    if not isinstance(name, str) or name not in METRICS:
        names = ", ".join(nearest_first(str(name), METRICS))
        hint = nearest(str(name), METRICS) or ONE_OF_THESE
        raise MetricError(f"expected a metric ({names}), got {name!r:.100}.{hint}")
    return METRICS[name]


def judgeable(gated: Collection[str], *, attributed: bool, scored: bool) -> tuple[MetricName, ...]:
    """Select the gated metrics that a run can measure, as in `METRICS`.

    Args:
        gated: names of the metrics that a profile limits.
        attributed: whether answers are attributed to neurons.
        scored: whether the reference's continuations are scored.
    """
    missing = {*(() if attributed else ("attributions",)), *(() if scored else ("scored tokens",))}
    return tuple(
        metric.name for metric in METRICS.values() if metric.name in gated and missing.isdisjoint(metric.needs)
    )


def check_limit(metric: Metric, value: float) -> float:
    """Check a limit, and make it a float.

    Raises:
        ValueError: it is not a number, not finite, negative, or all but the worst values are within it, or none.
    """
    if not _is_finite(value):
        raise ValueError(f"expected a finite limit {metric.limits} for {metric.name}, got {value!r:.100}")
    if not metric.can_limit(value):
        percent = value >= 1 and not metric.unit and metric.can_limit(value / 100)
        guess = f". Did you mean {float(value) / 100:g}?" if percent else ""
        raise ValueError(f"expected a limit {metric.limits} for {metric.name}, got {value!r:.100}{guess}")
    return float(value)


def _is_finite(value: float) -> bool:
    """Say whether a value is a finite number; True and False are not numbers here."""
    try:
        return not isinstance(value, bool) and math.isfinite(value)
    except (TypeError, OverflowError):
        return False
