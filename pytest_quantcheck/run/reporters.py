"""Progress reporters of a run: made by whoever shows progress, or none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_quantcheck.measuring import ProgressReporter

Progress = Callable[[str], AbstractContextManager["ProgressReporter | None"]]
"""Makes the progress reporter for what has this name, or None."""


@contextmanager
def reporting(progress: Progress | None, label: str) -> Iterator[ProgressReporter]:
    """Yield a progress reporter; it shows nothing where nobody looks."""
    from pytest_quantcheck.measuring import NoProgress  # noqa: PLC0415 - heavy

    with progress(label) if progress else nullcontext() as reporter:
        yield reporter or NoProgress()
