"""SIGTERM handled like Ctrl-C, so that stopped jobs end cleanly."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupt_on_sigterm() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM, as SIGINT does; a handler that another program set stays."""
    if threading.current_thread() is not threading.main_thread() or _is_handled():
        yield
        return
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _is_handled() -> bool:
    return signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt("SIGTERM")
