"""The page that GitHub Actions shows of a job: Markdown is appended to the file that it names."""

import os
from collections.abc import Iterable
from pathlib import Path

from pytest_quantcheck.reporting import fitted

VARIABLE = "GITHUB_STEP_SUMMARY"
LIMIT = 1 << 20
"""Bytes of a step's summary; GitHub shows nothing of a larger one."""


def append_to_step_summary(lines: Iterable[str]) -> str:
    """Append lines of Markdown where a file is named, what fits; return what went wrong in a sentence, or nothing.

    Whatever goes wrong costs the summary alone: verdicts and exit status stand.
    """
    name = os.environ.get(VARIABLE)
    if not name:
        return ""
    path = Path(name)
    try:
        text = fitted(lines, LIMIT - (path.stat().st_size if path.exists() else 0))
        with path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except (OSError, ValueError) as problem:
        return f"no step summary, the verdicts stand: {problem}; check {VARIABLE}"
    return "" if text else f"no step summary, the verdicts stand: {path} is full; run the gate in a step of its own"
