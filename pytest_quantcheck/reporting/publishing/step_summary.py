"""Summary of a step on GitHub Actions: Markdown appended to a file that the environment names."""

import os
from collections.abc import Iterable
from pathlib import Path

from pytest_quantcheck.errors import StorageError
from pytest_quantcheck.reporting import truncate_lines
from pytest_quantcheck.storage import find_target

VARIABLE = "GITHUB_STEP_SUMMARY"
LIMIT = 1 << 20
"""Most bytes of a step's summary; GitHub does not show a larger one."""


def append_to_step_summary(lines: Iterable[str]) -> str:
    """Append lines of Markdown to the step's summary, if there is one.

    Lines beyond GitHub's limit are left out.

    An error costs only the summary: verdicts and exit status stay as they are.

    Returns:
        A sentence that says what went wrong, or an empty text.
    """
    name = os.environ.get(VARIABLE)
    if not name:
        return ""
    try:
        path = find_target(Path(name))
        text = truncate_lines(lines, LIMIT - (path.stat().st_size if path.exists() else 0))
        with path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except (OSError, ValueError, StorageError) as problem:
        return f"no step summary, the verdicts stand: {problem}; check {VARIABLE}"
    return "" if text else f"no step summary, the verdicts stand: {path} is full; run the gate in a step of its own"
