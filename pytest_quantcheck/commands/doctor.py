"""`doctor`: what this environment offers to a gate, and what it lacks."""

import argparse
import importlib.metadata
import os
import platform
import re
from collections.abc import Iterator

from pytest_quantcheck.commands.output import FINE, say
from pytest_quantcheck.libraries import installed
from pytest_quantcheck.reporting.publishing.step_summary import VARIABLE

_PACKAGE = "pytest-quantcheck"


def run(_arguments: argparse.Namespace) -> int:
    """Print one fact a line; what is missing begins with `warning:`, and the exit status is 0 all the same."""
    say(_lines())
    return FINE


def _lines() -> Iterator[str]:
    yield f"python: {platform.python_version()} on {platform.platform()}"
    versions = {name: installed(name) for name in (_PACKAGE, *_required())}
    for name, version in versions.items():
        yield f"{name}: {version}" if version else f"warning: {name} is required and not installed: pip install {name}"
    if all(versions.values()):
        from pytest_quantcheck.models.environment import environment_lines  # noqa: PLC0415 - imports what may be missing

        yield from environment_lines()
    missing = [name for name in _required("report") if installed(name) is None]
    if missing:
        yield f"warning: report.html needs {' and '.join(missing)}: pip install '{_PACKAGE}[report]'"
    else:
        yield f"report.html: drawn with {' and '.join(_required('report'))}"
    summary = os.environ.get(VARIABLE)
    yield f"step summary: {f'appended to {summary}' if summary else f'none, {VARIABLE} is not set'}"


def _required(extra: str = "") -> list[str]:
    """Read the packages that this one requires, or those of an extra."""
    marker = f'extra == "{extra}"' if extra else ""
    requirements = (
        requirement.replace("'", '"').partition(";") for requirement in importlib.metadata.requires(_PACKAGE) or ()
    )
    return [re.split(r"[^\w.-]", name.strip())[0] for name, _, condition in requirements if condition.strip() == marker]
