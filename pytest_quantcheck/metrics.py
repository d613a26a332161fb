"""The metrics a gate decides by: their names, and on which side of a limit they are good."""

from typing import Literal, NamedTuple


class Metric(NamedTuple):
    """One quantity that a comparison estimates and a profile limits.

    `direction` is the side of the limit that fails: `"max"` means that a value above the limit fails,
    `"min"` that a value below it does. A `layered` metric has one estimate for each measured layer.
    """

    name: str
    title: str
    direction: Literal["max", "min"]
    layered: bool
    unit: str = ""


_ALL = (
    Metric("accuracy_drop", "accuracy drop", "max", layered=False),
    Metric("confidence_drift", "confidence drift", "max", layered=False),
    Metric("ace_drift", "ACE drift", "max", layered=False),
    Metric("kl_divergence", "KL divergence", "max", layered=False, unit="nats"),
    Metric("flip_rate", "flip rate", "max", layered=False),
    Metric("dead_neuron_delta", "dead-neuron delta", "max", layered=True),
    Metric("dead_neuron_churn", "dead-neuron churn", "max", layered=True),
    Metric("faint_neuron_churn", "faint-neuron churn", "max", layered=True),
    Metric("salient_overlap", "salient-neuron overlap", "min", layered=True),
    Metric("redundancy_change", "redundancy change", "max", layered=True),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
