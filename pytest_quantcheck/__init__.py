"""Acceptance tests for quantized language models: may this quantized model be released?

Names are resolved when first used, so that importing the package loads neither torch nor transformers. Type checkers
read the names in `__init__.pyi`, which `python -m tests.docs.reference` writes.
"""

from importlib import import_module
from typing import Any

from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.text import nearest

__version__ = "0.1.0"

_HOMES = {
    "Gate": "run.gate",
    "Plan": "measuring",
    "QuantcheckError": "errors",
    "QuantcheckWarning": "assertions",
    "Source": "models.source",
    "assert_metric": "assertions",
    "compare": "comparing",
    "judge": "judging",
    "load": "models.loading",
    "load_profile": "profiles",
    "measure": "measuring",
    "merge": "measuring.merging",
    "read_prompts": "prompts",
}


def __getattr__(name: str) -> Any:
    __tracebackhide__ = True
    homes = _homes()
    if name not in homes:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}.{nearest(name, homes)}")
    return getattr(import_module(f"{__name__}.{homes[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_homes()])


def _homes() -> dict[str, str]:
    """Return the module of each public name: those of the table, and an assertion for each metric."""
    return _HOMES | {f"assert_{metric}": "assertions" for metric in METRICS}


__all__ = sorted(_homes())  # noqa: PLE0605 - follows from the tables
