"""Tracebacks of users' tests: an expected error shows their own line, not ours."""

from pathlib import Path
from types import TracebackType

import pytest

from pytest_quantcheck.errors import QuantcheckError

_PACKAGE = Path(__file__).parents[1]
_FIXTURES = _PACKAGE / "plugin.py"


def show_users_line(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """End an expected error's traceback where the user's code calls ours.

    A fixture of ours is called by no line of the user's: its own line stays. Bugs, and `--full-trace`, show all.
    """
    if call.excinfo is None or not isinstance(call.excinfo.value, QuantcheckError) or item.config.option.fulltrace:
        return
    call.excinfo.value.__cause__ = None  # what a library raised; the sentence says it in our words
    frame: TracebackType | None = call.excinfo.tb
    while frame:
        if frame.tb_next and _is_inside(frame.tb_next):
            frame.tb_next = None
        frame = frame.tb_next


def _is_inside(frame: TracebackType) -> bool:
    path = Path(frame.tb_frame.f_code.co_filename)
    return _PACKAGE in path.parents and path != _FIXTURES
