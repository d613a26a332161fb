"""Acceptance tests for quantized language models: may this quantized model be released?

Names are resolved when first used, so that importing the package loads neither torch nor transformers. Type checkers
read the imports below.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_quantcheck.assertions import QuantcheckWarning as QuantcheckWarning
    from pytest_quantcheck.assertions import assert_accuracy_drop as assert_accuracy_drop
    from pytest_quantcheck.assertions import assert_ace_drift as assert_ace_drift
    from pytest_quantcheck.assertions import assert_confidence_drift as assert_confidence_drift
    from pytest_quantcheck.assertions import assert_dead_neuron_churn as assert_dead_neuron_churn
    from pytest_quantcheck.assertions import assert_dead_neuron_delta as assert_dead_neuron_delta
    from pytest_quantcheck.assertions import assert_faint_neuron_churn as assert_faint_neuron_churn
    from pytest_quantcheck.assertions import assert_flip_rate as assert_flip_rate
    from pytest_quantcheck.assertions import assert_kl_divergence as assert_kl_divergence
    from pytest_quantcheck.assertions import assert_metric as assert_metric
    from pytest_quantcheck.assertions import assert_redundancy_change as assert_redundancy_change
    from pytest_quantcheck.assertions import assert_salient_overlap as assert_salient_overlap
    from pytest_quantcheck.comparing import compare as compare
    from pytest_quantcheck.errors import QuantcheckError as QuantcheckError
    from pytest_quantcheck.judging import judge as judge
    from pytest_quantcheck.measuring import measure as measure
    from pytest_quantcheck.measuring.merging import merge as merge
    from pytest_quantcheck.profiles import load_profile as load_profile
    from pytest_quantcheck.prompts import read_prompts as read_prompts
    from pytest_quantcheck.run.gate import Gate as Gate

__version__ = "0.1.0"

_HOMES = {
    "Gate": "run.gate",
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
    "merge": "measuring.merging",
    "read_prompts": "prompts",
}

__all__ = [*_HOMES]  # noqa: PLE0604 - the table's keys are strings


if not TYPE_CHECKING:  # to a type checker it would promise every name

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
