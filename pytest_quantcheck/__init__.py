"""Acceptance tests for quantized language models: may this quantized model be released?

Names are resolved when first used, so that importing the package loads neither torch nor transformers.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Gate": "gate",
    "QuantcheckError": "errors",
    "QuantcheckWarning": "assertions",
    "assert_accuracy_drop": "assertions",
    "assert_ace_drift": "assertions",
    "assert_confidence_drift": "assertions",
    "assert_dead_neuron_churn": "assertions",
    "assert_dead_neuron_delta": "assertions",
    "assert_faint_neuron_churn": "assertions",
    "assert_flip_rate": "assertions",
    "assert_kl_divergence": "assertions",
    "assert_metric": "assertions",
    "assert_redundancy_change": "assertions",
    "assert_salient_overlap": "assertions",
    "compare": "comparing",
    "judge": "judging",
    "load_profile": "profiles",
    "measure": "measuring",
    "merge": "merging",
    "read_prompts": "prompts",
}

__all__ = [*_HOMES]  # noqa: PLE0604 - the table's keys are strings


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
