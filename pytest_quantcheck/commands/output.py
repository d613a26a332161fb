"""Output of every command: where it goes, and the exit statuses."""

import sys
from collections.abc import Iterable

from pytest_quantcheck.commands.options import spelled
from pytest_quantcheck.errors import printable

FINE, OTHERWISE, TROUBLE = 0, 1, 2
"""Exit statuses: as asked; a difference, a bad profile, an unfit candidate; nothing could be said."""

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


def say(lines: Iterable[str]) -> None:
    """Print lines to any stream: what its encoding lacks is written as an escape."""
    encoding = sys.stdout.encoding or "utf-8"
    for line in lines:
        print(line.encode(encoding, "backslashreplace").decode(encoding))


def complain(problem: Exception) -> None:
    """Print an error as one sentence to stderr."""
    print(printable(spelled(str(problem))), file=sys.stderr)
