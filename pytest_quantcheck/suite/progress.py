"""Progress of measurements in pytest's terminal: past its capture, and from xdist's workers."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import pytest

from pytest_quantcheck.reporting import ProgressLine

_CHANNEL = "quantcheck_channel"


class Announcer:
    """The terminal of one pytest run; in an xdist worker, the controller's.

    `alone`: no other run shares its cache, so that it can only wait for its own workers.
    """

    def __init__(self, config: pytest.Config, *, alone: bool) -> None:
        self._config, self._alone = config, alone
        self._announced = False

    def progress(self, label: str) -> AbstractContextManager[Any]:
        """Make the progress reporter for a measurement, or one that is None."""
        if hasattr(self._config, "workerinput"):
            channel = self._config.workerinput.get(_CHANNEL)
            if channel is None:
                return nullcontext()
            return ProgressLine(channel.send, subject=label, interactive=False, alone=self._alone)
        if not self._watched:
            return nullcontext()
        self._announced = False
        interactive = bool(self.reporter.isatty) and "CI" not in os.environ
        return ProgressLine(self._write, subject=label, interactive=interactive, width=self.width)

    def connect(self, node: Any) -> None:
        """Open a channel through which a new xdist worker reports progress."""
        if self._watched:
            node.workerinput[_CHANNEL] = channel = node.gateway.newchannel()
            channel.setcallback(self._write_from_worker)

    @property
    def reporter(self) -> Any:
        """The terminal reporter; None in an xdist worker."""
        return self._config.pluginmanager.get_plugin("terminalreporter")

    @property
    def width(self) -> int:
        """Columns of the terminal."""
        with self._uncaptured():
            return int(self._config.get_terminal_writer().fullwidth)

    @property
    def _watched(self) -> bool:
        """Whether progress is shown at all."""
        return self.reporter is not None and self._config.option.verbose >= 0

    def _write(self, text: str) -> None:
        """Write to the terminal past pytest's capture."""
        with self._uncaptured():
            if not self._announced:
                self.reporter.ensure_newline()
            self._announced = True
            self.reporter.write(text, flush=True)

    def _write_from_worker(self, text: str) -> None:
        """Write a worker's line below the dots; ignore a terminal that is gone."""
        with suppress(OSError, ValueError):
            begun = self._config.get_terminal_writer().width_of_current_line
            self.reporter.write("\n" * bool(begun) + text, flush=True)

    def _uncaptured(self) -> AbstractContextManager[Any]:
        """Suspend pytest's capture while the terminal is used."""
        capture = self._config.pluginmanager.get_plugin("capturemanager")
        return capture.global_and_fixture_disabled() if capture else nullcontext()
