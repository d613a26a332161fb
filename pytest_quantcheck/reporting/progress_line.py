"""Progress of a measurement: one line rewritten on a terminal, occasional lines elsewhere."""

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from pytest_quantcheck.reporting.wording import ascii_only
from pytest_quantcheck.text import duration

REWRITE = 0.1
"""Seconds between two updates of the line on a terminal."""

REPEAT = 30.0
"""Seconds between two lines in a log."""


_MOST_WORKERS = 8
"""Lines about workers that are shown at most: more would not fit a terminal, nor be read in a log."""


class ProgressLine:
    """Progress reporter of one model on one prompt set, phase by phase.

    `write` gets text with its line ends. `interactive`: the output is a terminal, on which one line is rewritten and
    cleared at the end. Elsewhere a phase writes a line every half minute and one at its end, and nothing if it takes
    less than half a minute. Progress never fails a run: after a write error nothing more is written. Leaving the `with`
    block clears the line, also after an error. Where there are workers, each has a line of its own below it. `alone`:
    only other parts of the same run can make this one wait, and waiting for them is not logged.
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
        self._label, self._total, self._done = "", 0, 0
        self._began = self._written = 0.0
        self._workers: list[str] = []
        self._shown: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear()

    def say(self, what: str, *, log: bool = False) -> None:
        """Show what happens before the first phase; elsewhere than on a terminal only with `log`."""
        line = ascii_only(f"{self._subject}: {what}")
        if self._interactive:
            self._rewrite(line)
        elif log and not self._alone:
            self._write(f"{line}\n")

    def note(self, what: str) -> None:
        """Write a line that stays."""
        self._clear()
        self._write(f"{ascii_only(f'{self._subject}: {what}')}\n")

    def start(self, label: str, total: int) -> None:
        """Begin a phase: `label` names it, `total` is its number of prompts."""
        self._label, self._total, self._done = ascii_only(f"{self._subject}, {label}"), total, 0
        self._began = self._written = self._clock()
        if self._interactive:
            self._rewrite(self._line())

    def advance(self, n: int = 1) -> None:
        """Count `n` more prompts as finished."""
        self._done += n
        self._refresh()

    def decided(self, hopeless: frozenset[int]) -> None:
        """Show nothing: the report says where attribution was given up."""

    def workers(self, lines: Sequence[str]) -> None:
        """Show what each worker does."""
        more = [f"and {len(lines) - _MOST_WORKERS} more"] if len(lines) > _MOST_WORKERS else []
        self._workers = [f"  {ascii_only(line)}" for line in (*lines[:_MOST_WORKERS], *more)]
        self._refresh()

    def finish(self) -> None:
        """End the phase."""
        self._clear()
        self._workers = []
        if not self._interactive and self._clock() - self._began >= REPEAT:
            took = duration(self._clock() - self._began)
            self._write(f"{self._label}: {self._done} prompts in {took}\n")

    def _refresh(self) -> None:
        """Write what is done, where the last time is long enough ago."""
        now = self._clock()
        if now - self._written < (REWRITE if self._interactive else REPEAT):
            return
        self._written = now
        lines = [self._line(), *self._workers]
        if self._interactive:
            self._rewrite(*lines)
        else:
            self._write("".join(f"{line}\n" for line in lines))

    def _line(self) -> str:
        spent = self._clock() - self._began
        left = spent * (self._total - self._done) / self._done if self._done else 0.0
        ahead = f", {'about ' if left >= 1 else ''}{duration(left)} left" if left > 0 else ""
        return f"{self._label}: {self._done}/{self._total} prompts{ahead}"

    def _rewrite(self, *texts: str) -> None:
        """Write lines in place of those that are shown."""
        lines = [text[-(self._width - 1) :] for text in texts]  # the end matters most, and a full line would wrap
        lines += [""] * (len(self._shown) - len(lines))
        before = [*self._shown, *[0] * len(lines)]
        self._write(self._to_first + "\n".join(f"{line:<{width}}" for line, width in zip(lines, before, strict=False)))
        self._shown = list(map(len, lines))

    def _clear(self) -> None:
        if self._shown:
            self._write(self._to_first + "\n".join(" " * width for width in self._shown) + self._to_first)
            self._shown = []

    @property
    def _to_first(self) -> str:
        """What moves a terminal's cursor to where the first line begins."""
        return f"\r\x1b[{len(self._shown) - 1}A" if len(self._shown) > 1 else "\r"

    def _write(self, text: str) -> None:
        if self._sink is None:
            return
        try:
            self._sink(text)
        except (OSError, ValueError):  # the stream or its reader is closed
            self._sink = None
