"""A worker of a cluster: one process that holds one model, and measures shards of it."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pytest_quantcheck.errors import QuantcheckError
from pytest_quantcheck.libraries import installed
from pytest_quantcheck.measuring import NoProgress
from pytest_quantcheck.measuring.sharded import ShardedMeasurement
from pytest_quantcheck.records import Measurement, Provenance
from pytest_quantcheck.run.cache_key import KEYED_PACKAGES, processor_of
from pytest_quantcheck.run.jobs import Job, prepared
from pytest_quantcheck.run.local_models import LocalModels

if TYPE_CHECKING:
    from pytest_quantcheck.measuring import Plan


@dataclass(frozen=True)
class Place:
    """Where a worker is, and what decides its last bits.

    `processor`: the kind of device; `libraries`: versions of the packages that may change a number, by name.
    """

    name: str
    processor: str
    libraries: Mapping[str, str | None]


@dataclass(frozen=True)
class Ready:
    """What a worker says of a job once its model is loaded.

    `applied`: what was done to a control; `plan`: the job's, or the control's; `shards`: the positions of each shard's
    prompts, first shard first; both by prompt set as `provenance`.
    """

    applied: str | None
    plan: Plan
    shards: Mapping[str, list[list[int]]]
    provenance: Mapping[str, Provenance]


@dataclass(frozen=True)
class Doing:
    """How far a worker is: the phase, and how many prompts of how many are done.

    `hopeless`: the layers that it has given up in this task; None where it has not decided.
    """

    phase: str
    done: int = 0
    total: int = 0
    hopeless: frozenset[int] | None = None


class Stopped(Exception):  # noqa: N818 - nothing is wrong: nobody wants the result any more
    """Raised in a measurement that is not wanted any more."""


class Worker:
    """Holds the model of one job.

    `do` runs in one thread, `progress`, `stop` and `close` in another. A worker that was restarted has no model: each
    request brings its job, which is loaded where it is not yet.
    """

    def __init__(self, device: str) -> None:
        self._device, self._models = device, LocalModels()
        self._loaded, self._job = ExitStack(), 0
        self._ready: Ready | None = None
        self._measurements: dict[str, ShardedMeasurement] = {}
        self._begun: dict[tuple[str, int], Measurement] = {}
        self._progress = _Progress()

    def do(self, request: Literal["place", "load", "begin", "measure"], *arguments: Any) -> Any:
        """Do what is asked; return what it gives, or an error of ours that it raises."""
        try:
            return getattr(self, request)(*arguments)
        except (QuantcheckError, Stopped) as error:
            return error

    def place(self) -> Place:
        """Say where this is.

        Raises:
            ModelError: the device is not there.
        """
        name = f"{socket.gethostname()} (process {os.getpid()})"
        return Place(name, processor_of(self._device), {name: installed(name) for name in KEYED_PACKAGES})

    def load(self, number: int, job: Job) -> Ready:
        """Load a job's model in place of the one before.

        `number` tells jobs apart: one that is loaded is not loaded again.

        Raises:
            QuantcheckError: it cannot be loaded or measured.
        """
        if self._ready is None or self._job != number:
            self._unload()
            self._progress.start("loading", 0)
            loaded, plan, applied = self._loaded.enter_context(prepared(job, self._models))
            self._measurements = {
                name: ShardedMeasurement.of(
                    loaded,
                    prompts,
                    plan,
                    model=job.target.source.model,
                    revision=job.target.source.revision,
                    reference=job.references.get(name),
                    progress=self._progress,
                )
                for name, prompts in job.prompt_sets.items()
            }
            shards = {
                name: [one.prompts(shard + 1) for shard in range(len(one.shards))]
                for name, one in self._measurements.items()
            }
            provenance = {name: one.provenance for name, one in self._measurements.items()}
            self._job, self._ready = number, Ready(applied, plan, shards, provenance)
        return self._ready

    def begin(self, number: int, job: Job, prompt_set: str, shard: int) -> Provenance:
        """Measure a shard up to attribution, and keep it here.

        `number`: of its job. Errors are those of `measure`.
        """
        begun = self._begun[prompt_set, shard] = self._measurement(number, job, prompt_set).forward(shard)
        return begun.provenance

    def measure(
        self, number: int, job: Job, prompt_set: str, shard: int, hopeless: frozenset[int] | None
    ) -> Measurement:
        """Measure a shard, or what is left of one begun here.

        `number`: of its job.

        Raises:
            QuantcheckError: the model cannot be loaded or measured.
            Stopped: the job is not wanted any more.
        """
        measurement = self._measurement(number, job, prompt_set)
        begun = self._begun.pop((prompt_set, shard), None)
        try:
            return measurement.attribute(shard, begun or measurement.forward(shard), hopeless)
        finally:
            self._progress.hopeless = None  # of this shard: whoever asks from now on may mean the next

    def progress(self) -> Doing:
        """Tell how far it is."""
        found = self._progress
        return Doing(found.label, found.done, found.total, found.hopeless)

    def stop(self, number: int) -> None:
        """End a measurement at its next batch.

        `number`: of its job; a later job's is not ended.
        """
        self._progress.stopped = number

    def close(self) -> None:
        """Delete files that were unpacked here."""
        self._models.delete_unpacked()

    def _measurement(self, number: int, job: Job, prompt_set: str) -> ShardedMeasurement:
        self.load(number, job)
        self._progress.job = number
        return self._measurements[prompt_set]

    def _unload(self) -> None:
        self._ready, self._measurements, self._begun = None, {}, {}
        self._loaded.close()


class _Progress(NoProgress):
    """How far a worker is; may be read and stopped from another thread."""

    def __init__(self) -> None:
        self.label, self.done, self.total = "starting", 0, 0
        self.job, self.stopped = 0, -1
        self.hopeless: frozenset[int] | None = None

    def start(self, label: str, total: int) -> None:
        """Begin a phase."""
        self.label, self.done, self.total = label, 0, total

    def advance(self, n: int = 1) -> None:
        """Count `n` more prompts as done."""
        if self.job <= self.stopped:
            raise Stopped
        self.done += n

    def decided(self, hopeless: frozenset[int]) -> None:
        """Keep what is decided."""
        self.hopeless = hopeless
