"""How far a measurement is: one line that is rewritten on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from pytest_quantcheck.reporting.wording import ascii_only

REWRITE = 0.1
"""Seconds between two rewritings of the line on a terminal."""

REPEAT = 30.0
"""Seconds between two lines where nobody watches."""


class ProgressLine:
    """Tells how far one model is on one prompt set, phase by phase.

    `write` gets text with its own line ends; `interactive` says whether it is a terminal, where one line is
    rewritten and taken away in the end. Elsewhere a phase gets a line every half minute, and one when it is over,
    but none at all if it took less than that. A stream that can no longer be written to is left alone: progress
    never fails a run. Leaving the `with` block takes the line away, whatever happened. `alone`: nobody but parts of
    the same run can be waited for, of which a log says nothing.
    """

    def __init__(
        self,
        write: Callable[[str], object],
        *,
        subject: str,
        interactive: bool,
        clock: Callable[[], float] = time.monotonic,
        width: int = 80,
        alone: bool = False,
    ) -> None:
        self._sink: Callable[[str], object] | None = write
        self._subject, self._interactive, self._clock, self._width = subject, interactive, clock, width
        self._alone = alone
        self._label, self._total, self._done, self._before = "", 0, 0, 0
        self._began = self._told = 0.0
        self._shown = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear()

    def say(self, what: str, *, log: bool = False) -> None:
        """Say what is done before the first phase: on a terminal until then, elsewhere only with `log`, in a line."""
        line = ascii_only(f"{self._subject}: {what}")
        if self._interactive:
            self._rewrite(line)
        elif log and not self._alone:
            self._write(f"{line}\n")

    def start(self, label: str, total: int, done: int = 0) -> None:
        """A phase begins: `label` says what is done, `total` to how many prompts, `done` to how many before it."""
        self._label, self._total = ascii_only(f"{self._subject}, {label}"), total
        self._done = self._before = done
        self._began = self._told = self._clock()
        if self._interactive:
            self._rewrite(self._line())

    def advance(self, n: int = 1) -> None:
        """So many more prompts are done."""
        self._done += n
        now = self._clock()
        if now - self._told < (REWRITE if self._interactive else REPEAT):
            return
        self._told = now
        if self._interactive:
            self._rewrite(self._line())
        else:
            self._write(f"{self._line()}\n")

    def finish(self) -> None:
        """The phase is over."""
        self._clear()
        if not self._interactive and self._clock() - self._began >= REPEAT:
            took = duration(self._clock() - self._began)
            before = f" ({self._before} of them in an earlier run)" if self._before else ""
            self._write(f"{self._label}: {self._done} prompts in {took}{before}\n")

    def _line(self) -> str:
        spent = self._clock() - self._began
        fresh = self._done - self._before
        left = spent * (self._total - self._done) / fresh if fresh else 0.0
        ahead = f", {'about ' if left >= 1 else ''}{duration(left)} left" if left > 0 else ""
        return f"{self._label}: {self._done}/{self._total} prompts{ahead}"

    def _rewrite(self, text: str) -> None:
        line = text[-(self._width - 1) :]  # the end says most, and a full line would wrap
        self._write(f"\r{line:<{self._shown}}")
        self._shown = len(line)

    def _clear(self) -> None:
        if self._shown:
            self._write(f"\r{' ' * self._shown}\r")
            self._shown = 0

    def _write(self, text: str) -> None:
        if self._sink is None:
            return
        try:
            self._sink(text)
        except (OSError, ValueError):  # closed, or the reader has gone
            self._sink = None


def duration(seconds: float) -> str:
    """A time in the unit that suits it.

    >>> duration(0.2), duration(40), duration(200), duration(8000)
    ('less than 1 s', '40 s', '3 min', '2.2 h')
    """
    if seconds < 1:
        return "less than 1 s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
