"""The local engine: one model in this process, shard after shard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_quantcheck.records import Measurement
from pytest_quantcheck.run.jobs import Job, prepared
from pytest_quantcheck.run.local_models import LocalModels
from pytest_quantcheck.run.targets import Target

if TYPE_CHECKING:
    from pytest_quantcheck.measuring import Plan, ProgressReporter
    from pytest_quantcheck.measuring.shards import FinishedShards
    from pytest_quantcheck.models.loaded import LoadedModel


class LocalEngine:
    """Measures in this process."""

    def __init__(self, models: LocalModels) -> None:
        self._models = models

    def start(self) -> None:
        """Do nothing: this process is there."""

    def close(self) -> None:
        """Do nothing: nothing was started."""

    def processor(self, device: str) -> str:
        """Name the kind of processor."""
        from pytest_quantcheck.run.cache_key import processor_of  # noqa: PLC0415 - heavy

        return processor_of(device)

    def check(self, target: Target) -> None:
        """Refuse a target whose weights have no room on this machine."""
        from pytest_quantcheck.models.loading import check_placement  # noqa: PLC0415 - heavy

        check_placement(self._models.files(target), target.load_as)

    @contextmanager
    def open(self, job: Job) -> Iterator[LocalModel]:
        """Load a job's model."""
        with prepared(job, self._models) as (loaded, plan, applied):
            yield LocalModel(job, loaded, plan, applied)


@dataclass(frozen=True, eq=False)
class LocalModel:
    """A job's model in memory."""

    job: Job
    loaded: LoadedModel
    plan: Plan
    applied: str | None

    def measure(self, name: str, finished: FinishedShards | None, progress: ProgressReporter) -> Measurement:
        """Measure it on a prompt set."""
        from pytest_quantcheck.measuring import measure  # noqa: PLC0415 - heavy

        return measure(
            self.loaded,
            self.job.prompt_sets[name],
            self.plan,
            model=self.job.target.source.model,
            revision=self.job.target.source.revision,
            reference=self.job.references.get(name),
            progress=progress,
            finished=finished,
        )
