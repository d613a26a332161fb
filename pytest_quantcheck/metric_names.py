"""Names of metrics for type checkers; at run time any text is one, as `METRICS` may grow."""

# Made from the code by `python -m tests.docs.reference`; a test fails where the two part.

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    MetricName = Literal[
        "accuracy_drop",
        "confidence_drift",
        "ace_drift",
        "kl_divergence",
        "flip_rate",
        "token_kl",
        "token_kl_p99",
        "same_top",
        "perplexity_ratio",
        "dead_neuron_delta",
        "dead_neuron_churn",
        "faint_neuron_churn",
        "salient_overlap",
        "redundancy_change",
        "router_agreement",
    ]
else:
    MetricName = str
