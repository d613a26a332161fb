"""SIGTERM ends a run in one line, wherever the run is."""

import atexit
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Literal

ENDED = "quantcheck: ended by SIGTERM"
FINISHED = "quantcheck: SIGTERM came after the last test; the run is finished"

_TOGETHER = 2.0
"""Seconds in which signals count as one: `timeout` sends SIGTERM to its child, and again to the child's group."""


class Terminated(KeyboardInterrupt):
    """SIGTERM while a run can be interrupted; passes through libraries as Ctrl-C does."""

    __module__ = "builtins"  # so that pytest's line is not filled with the module's name


class Termination:
    """What SIGTERM does, by phase; a handler that another program set stays.

    - `starting`: the process ends at once. An exception could be swallowed by what is being imported.
    - `running`: `Terminated` is raised, and what is finished is kept.
    - `finishing`: the run goes on to its end, so that its exit status and its report say the same.

    Signals within two seconds count as one. A later one ends the process at once, in each phase.
    """

    def __init__(self) -> None:
        self.phase: Literal["starting", "running", "finishing"] = "starting"
        self._came: float | None = None
        self._process = os.getpid()
        self._stderr = _copy_of_stderr()
        self._armed = threading.current_thread() is threading.main_thread() and (
            signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        )
        if self._armed:
            signal.signal(signal.SIGTERM, self._handle)

    def say(self, line: str) -> None:
        """Write a line to stderr, past pytest's capture."""
        with suppress(OSError):
            os.write(self._stderr, f"{line}\n".encode())

    def heed(self) -> None:
        """Raise `Terminated` again where a library swallowed it."""
        if self.phase == "running" and self._came is not None:
            raise Terminated(ENDED)

    def disarm(self) -> None:
        """Let SIGTERM do again what it did before."""
        if self._armed and signal.getsignal(signal.SIGTERM) == self._handle:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._armed = False
        with suppress(OSError):
            os.close(self._stderr)
        self._stderr = -1

    def leave(self) -> None:
        """Keep the status of a process that ends; otherwise disarm.

        Before the last test there is no status to keep.
        """
        if self._armed and (self.phase == "finishing" or self._came is not None):
            self.phase = "finishing"
            atexit.register(self._ignore)
        else:
            self.disarm()

    def _ignore(self) -> None:
        """Ignore SIGTERM: the interpreter takes handlers away before it has ended."""
        if signal.getsignal(signal.SIGTERM) == self._handle:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def _handle(self, _signal: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a fork has inherited the handler
            _end_at_once()
            return
        now, before = time.monotonic(), self._came
        if before is not None and now - before < _TOGETHER:
            return
        if self.phase == "starting" or before is not None:
            self.say(ENDED)
            _end_at_once()
        self._came = now
        if self.phase == "running":
            raise Terminated(ENDED)
        self.say(f"\n{FINISHED}")  # pytest's line of dots may have no end yet


@contextmanager
def interrupt_on_sigterm() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM, as SIGINT does; a handler that another program set stays."""
    termination = Termination()
    termination.phase = "running"
    try:
        yield
    finally:
        termination.disarm()


def _copy_of_stderr() -> int:
    """Make a descriptor that pytest's capture does not redirect; -1, to which nothing can be written, without one."""
    try:
        return os.dup(2)
    except OSError:
        return -1


def _end_at_once() -> None:
    """End as SIGTERM ends a process: exit status 143 in a shell."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)
