"""Engines: who measures a run's targets."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from pytest_quantcheck.errors import SettingsError
from pytest_quantcheck.libraries import installed
from pytest_quantcheck.options import Settings
from pytest_quantcheck.records import Measurement
from pytest_quantcheck.run.jobs import Job
from pytest_quantcheck.run.local_models import LocalModels
from pytest_quantcheck.run.reporters import Progress
from pytest_quantcheck.run.targets import Target

if TYPE_CHECKING:
    from pytest_quantcheck.measuring import ProgressReporter
    from pytest_quantcheck.measuring.shards import FinishedShards


class Opened(Protocol):
    """A job whose model is in memory, here or in workers."""

    @property
    def applied(self) -> str | None:
        """What was done to a control; None for other targets."""

    def measure(self, name: str, finished: FinishedShards | None, progress: ProgressReporter) -> Measurement:
        """Measure it on a prompt set. Errors are those of `measuring.measure`."""


class Engine(Protocol):
    """Who measures."""

    def start(self) -> None:
        """Make ready to measure, before anything is loaded.

        Raises:
            SettingsError: where it was to measure it cannot.
            ModelError: the device is not there.
        """

    def close(self) -> None:
        """End what was started."""

    def processor(self, device: str) -> str:
        """Name the kind of processor that measures on a device.

        Raises:
            ModelError: the device is not there.
        """

    def check(self, target: Target) -> None:
        """Refuse a target whose weights would have no room; its files were found.

        Raises:
            ModelError: as of `check_placement`.
        """

    def open(self, job: Job) -> AbstractContextManager[Opened]:
        """Load a job's model; leaving the `with` block frees it.

        Raises:
            QuantcheckError: it cannot be loaded, or was not made from the reference.
        """


def engine_of(settings: Settings, models: LocalModels, progress: Progress | None) -> Engine:
    """Make the engine that the settings ask for.

    `progress`: shows what it waits for.

    Raises:
        SettingsError: its library is not installed.
    """
    if settings.engine == "local":
        from pytest_quantcheck.run.local_engine import LocalEngine  # noqa: PLC0415 - heavy

        return LocalEngine(models)
    if installed("ray") is None:
        raise SettingsError(
            "--quantcheck-engine=ray needs Ray, which is not installed: pip install 'pytest-quantcheck[cluster]'"
        )
    from pytest_quantcheck.run.ray_engine import RayEngine  # noqa: PLC0415 - heavy

    return RayEngine(settings, progress)
