"""Phases of a pytest run, which decide what SIGTERM does."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_quantcheck.options import might_be_asked
from pytest_quantcheck.run.termination import ENDED, Terminated, Termination

_NAME = "quantcheck-ending"
_WORKER = "PYTEST_XDIST_WORKER"


def arm(config: pytest.Config, arguments: Sequence[str]) -> None:
    """Handle SIGTERM where arguments or ini file may ask for a gate.

    xdist's workers are told apart by their environment until `begin`: their arguments are their controller's.
    """
    if _WORKER not in os.environ and might_be_asked(config, arguments):
        _ending(config)


def begin(config: pytest.Config) -> None:
    """Let SIGTERM interrupt pytest, which cleans up; xdist's workers are ended by their controller."""
    if hasattr(config, "workerinput"):
        disarm(config)
    else:
        _ending(config).termination.phase = "running"


def disarm(config: pytest.Config) -> None:
    """Leave SIGTERM alone."""
    ending: Ending | None = config.pluginmanager.get_plugin(_NAME)
    if ending:
        config.pluginmanager.unregister(ending)
        ending.termination.disarm()


def _ending(config: pytest.Config) -> Ending:
    """Find the run's listener, which is there from the first call on."""
    registered: Ending | None = config.pluginmanager.get_plugin(_NAME)
    if registered:
        return registered
    ending = Ending(config)
    config.add_cleanup(ending.leave)
    config.pluginmanager.register(ending, _NAME)
    return ending


class Ending:
    """The listener that knows how far a run is."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self.termination = Termination()

    def leave(self) -> None:
        """Disarm once pytest is done; at the end of its own process, keep the exit status to the last."""
        if _is_command(self._config):
            self.termination.leave()
        else:
            self.termination.disarm()

    def pytest_collection_finish(self) -> None:
        """Stop where a library swallowed the interruption."""
        self.termination.heed()

    def pytest_runtest_logstart(self) -> None:
        """Stop where a library swallowed the interruption."""
        self.termination.heed()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self) -> Generator[None, Any, Any]:
        """After the last test the run is finished, whatever comes."""
        result = yield
        self.termination.phase = "finishing"
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self) -> Generator[None, Any, Any]:
        """After an interruption the run is finished, too."""
        self.termination.phase = "finishing"
        return (yield)

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Say why the run ends, where no terminal of pytest would."""
        if excinfo.errisinstance(Terminated) and not self._config.pluginmanager.has_plugin("terminalreporter"):
            self.termination.say(ENDED)


def _is_command(config: pytest.Config) -> bool:
    """Tell whether this run is all that its process does.

    That is so in the commands `pytest` and `python -m pytest`, and not where a program calls `pytest.main`.
    """
    main = sys.modules["__main__"]
    name = getattr(main.__spec__, "name", None) or Path(getattr(main, "__file__", None) or "").stem
    ours = name in {"pytest", "pytest.__main__", "py.test"}
    return ours and list(config.invocation_params.args) == sys.argv[1:]
