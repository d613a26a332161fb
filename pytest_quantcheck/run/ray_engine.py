"""The Ray engine: workers on this machine or a cluster measure the shards of a model."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import msgspec
import numpy as np
import ray

from pytest_quantcheck.compatibility import refusals
from pytest_quantcheck.errors import MeasurementError
from pytest_quantcheck.measuring import merged
from pytest_quantcheck.measuring.sharded import given_up_by
from pytest_quantcheck.measuring.shards import FinishedShards, NothingFinished, kept_shard
from pytest_quantcheck.models.source import local_path
from pytest_quantcheck.options import Settings
from pytest_quantcheck.records import Measurement, Provenance
from pytest_quantcheck.run.cluster_worker import Ready
from pytest_quantcheck.run.jobs import Job
from pytest_quantcheck.run.ray_cluster import connected, kind_of, shared_out
from pytest_quantcheck.run.ray_workers import LOADING, TRIES, Crew, Hired, Lost
from pytest_quantcheck.run.reporters import Progress, reporting
from pytest_quantcheck.run.shard_queue import ShardQueue
from pytest_quantcheck.run.targets import Target
from pytest_quantcheck.text import counted, shortened

if TYPE_CHECKING:
    from pytest_quantcheck.measuring import ProgressReporter

_AHEAD = 2
"""Shards for each worker that may be measured or begun before their turn to be merged: they are kept in memory."""

_LATE = 30.0
"""Seconds after which it is written that workers do not start."""

_KEPT = 512 * 2**20
"""Bytes up to which more shards than that are kept."""


class RayEngine:
    """Measures with workers on Ray.

    They are started when they are first needed, and measure all targets of a run.
    """

    def __init__(self, settings: Settings, progress: Progress | None = None) -> None:
        self._settings, self._progress, self._jobs = settings, progress, 0
        self._processor = ""
        self._connection = ExitStack()

    def start(self) -> None:
        """Connect to the cluster, or start one, and hire workers.

        Raises:
            SettingsError: the cluster is not there or has too little room, or its workers are not alike.
            ModelError: the device is not there.
        """
        self._crew  # noqa: B018 - made when it is first needed

    def processor(self, device: str) -> str:  # noqa: ARG002 - the workers were hired for it
        """Name the kind of processor that workers have."""
        self.start()
        return self._processor

    def check(self, target: Target) -> None:
        """Do nothing: each worker places a model in the memory that it has."""

    @contextmanager
    def open(self, job: Job) -> Iterator[RayModel]:
        """Let each worker load a job's model."""
        crew = self._crew
        self._jobs += 1
        loaded = _Loaded(crew, self._jobs, ray.put(_to_be_sent(job)))
        try:
            yield RayModel(job, loaded, loaded.load())
        finally:
            crew.abandon(self._jobs)

    def close(self) -> None:
        """End the workers, and a cluster that this run started."""
        if crew := self.__dict__.pop("_crew", None):
            crew.dismiss(crew.workers)
        self._connection.close()

    @cached_property
    def _crew(self) -> Crew:
        settings = self._settings
        if not ray.is_initialized():
            self._connection.enter_context(connected(settings.engine_address))
        nodes = [node["Resources"] for node in cast("Any", ray).nodes() if node["Alive"]]
        workers, gpus, cpus = shared_out(settings, nodes)
        crew = Crew(workers, gpus=gpus, cpus=cpus, device=settings.device, patience=settings.worker_timeout)
        with reporting(self._progress, "Ray") as reporter:
            _await(crew, reporter)
        self._processor = kind_of(crew.workers)
        return crew


def _await(crew: Crew, reporter: ProgressReporter) -> None:
    """Wait until every worker is there or given up; say so."""
    began, late = time.monotonic(), False
    for awaited in crew.arrive():
        what = f"waiting for {counted(awaited, 'worker')} to start"
        reporter.say(what)
        if not late and time.monotonic() - began > _LATE:
            late = True
            reporter.note(f"{what}: the cluster may have no room yet, because of others who use it")


@dataclass(frozen=True, eq=False)
class _Loaded:
    """A job in a crew's hands: `number` tells it from others, `job` is Ray's reference to it."""

    crew: Crew
    number: int
    job: Any

    def load(self) -> Ready:
        """Let all workers load the model; return what they agree on.

        Raises:
            QuantcheckError: it cannot be loaded or measured, or differs between workers.
        """
        first: tuple[Hired, Ready] | None = None
        while first is None or any(worker.task == LOADING for worker in self.crew.workers):
            for worker in self.crew.idle:
                if worker.job != self.number:
                    worker.begin(LOADING, "load", self.number, self.job)
            for worker, _, result in self.crew.ended():
                if isinstance(result, Lost):  # it comes back and loads it then, unless it was lost too often
                    continue
                worker.job = self.number
                first = first or (worker, result)
                for name, provenance in result.provenance.items():
                    _refuse_unlike(first[0].name, first[1].provenance[name], worker.name, provenance)
        return first[1]

    def measure(self, worker: Hired, prompt_set: str, shard: int, hopeless: frozenset[int] | None) -> None:
        """Let a worker measure a shard; `Crew.ended` yields it with the shard's number."""
        worker.begin(shard, "measure", self.number, self.job, prompt_set, shard, hopeless)

    def begin(self, worker: Hired, prompt_set: str, shard: int) -> None:
        """Let a worker measure a shard up to attribution; `Crew.ended` yields its provenance."""
        worker.begin(shard, "begin", self.number, self.job, prompt_set, shard)


@dataclass(frozen=True, eq=False)
class RayModel:
    """A job's model in the memory of workers."""

    job: Job
    loaded: _Loaded
    ready: Ready

    @property
    def applied(self) -> str | None:
        """What was done to a control; None for other targets."""
        return self.ready.applied

    def measure(self, name: str, finished: FinishedShards | None, progress: ProgressReporter) -> Measurement:
        """Measure it on a prompt set.

        Raises:
            MeasurementError: a shard that failed in three tries, or was measured on another model than the others.
        """
        source = self.job.target.source
        provenance = msgspec.structs.replace(self.ready.provenance[name], model=source.model, revision=source.revision)
        shards = _Shards(self, name, finished or NothingFinished(), progress)
        return merged(shards, provenance, announce=None if self.job.references else progress)


class _Shards:
    """The shards of one measurement, in order: taken up, or measured by workers."""

    def __init__(self, model: RayModel, name: str, finished: FinishedShards, progress: ProgressReporter) -> None:
        self._model, self._name, self._finished, self._progress = model, name, finished, progress
        self._crew, self._positions = model.loaded.crew, model.ready.shards[name]
        plan = model.ready.plan
        self._numbers = plan.shard[:1] if plan.shard else range(1, len(self._positions) + 1)
        sampled = {} if plan.attribution.method == "off" else {one: self._sampled(one) for one in self._numbers}
        attributed = {shard: n for shard, n in sampled.items() if n}
        adaptive = not plan.attribution.nodes
        self._first = min(attributed, default=None)
        self._hopeless = None if adaptive else frozenset[int]()
        ahead = _AHEAD * len(self._crew.workers)
        self._queue = ShardQueue(self._numbers, attributed, adaptive=adaptive, ahead=ahead)
        self._here: dict[int, Measurement] = {}

    def __iter__(self) -> Iterator[Measurement]:
        label, prompts = f"measuring with {len(self._crew.workers)} workers", map(self._prompts, self._numbers)
        self._progress.start(label, sum(map(len, prompts)))
        for number in self._numbers:
            self._hand_out()
            while number not in self._here:
                self._collect()
                self._hand_out()
            self._queue.merged()
            yield self._here.pop(number)
        self._progress.finish()

    def _hand_out(self) -> None:
        """Give each idle worker a shard; those that are kept are taken up."""
        workers = [one.number for one in self._crew.workers]
        for worker in self._crew.idle:
            while (shard := self._queue.take(worker.number, workers)) is not None:
                kept = kept_shard(self._finished, shard, len(self._positions), self._prompts(shard))
                if kept is None:
                    self._give(worker, shard)
                    break
                self._arrived(shard, kept)

    def _give(self, worker: Hired, shard: int) -> None:
        if self._queue.is_undecided(shard):
            self._model.loaded.begin(worker, self._name, shard)
        else:
            hopeless = None if shard == self._first else self._hopeless
            self._model.loaded.measure(worker, self._name, shard, hopeless)

    def _collect(self) -> None:
        """Take what workers have measured meanwhile."""
        expected = self._model.ready.provenance[self._name]
        for worker, shard, result in self._crew.ended():
            if isinstance(result, Lost):
                if self._queue.failed(shard, worker.number) >= TRIES:
                    raise MeasurementError(
                        f"shard {shard} of {len(self._positions)} of {self._name} could not be measured in {TRIES} "
                        f"tries; of the last, by {worker.name}: {result.cause}. Shards that are finished are kept in "
                        "the cache, if there is one"
                    ) from result.error
                continue
            provenance = result if isinstance(result, Provenance) else result.provenance
            _refuse_unlike("the others", expected, worker.name, provenance)
            self._queue.ahead = max(_AHEAD * len(self._crew.workers), _KEPT // _bytes_of_sums(provenance))
            if result is provenance:
                self._queue.begun(shard, worker.number)
                continue
            self._finished.save_shard(shard, len(self._positions), result)
            self._arrived(shard, result)
        for one in self._crew.workers:
            if one.task is not None and one.task == self._queue.deciding and one.doing.hopeless is not None:
                self._decide(one.doing.hopeless)
        self._progress.workers([worker.summary for worker in self._crew.workers])

    def _arrived(self, shard: int, measured: Measurement) -> None:
        if shard == self._queue.deciding:
            self._decide(given_up_by(measured, self._model.ready.plan))
        self._here[shard] = measured
        self._progress.advance(len(self._prompts(shard)))

    def _decide(self, hopeless: frozenset[int] | None) -> None:
        self._hopeless = hopeless
        self._queue.decided()

    def _prompts(self, shard: int) -> list[int]:
        """List a shard's positions in the prompt set."""
        return self._positions[shard - 1]

    def _sampled(self, shard: int) -> int:
        """Count a shard's prompts to attribute."""
        return sum(position < self._model.ready.plan.samples for position in self._prompts(shard))


def _bytes_of_sums(shard: Provenance) -> int:
    """Count the bytes that a shard's sums take at most: nearly all of its record."""
    return shard.redundancy_neurons**2 * np.dtype(np.float32).itemsize * len(shard.layers)


def _refuse_unlike(first: str, expected: Provenance, other: str, obtained: Provenance) -> None:
    """Refuse a worker that does not measure the same as another."""
    same = msgspec.structs.replace(obtained, redundancy_neurons=expected.redundancy_neurons)  # known once measured
    differences = [f"{name} {theirs!r} and {its!r}" for name, theirs, its in refusals("merging", expected, same)]
    if differences:
        raise MeasurementError(
            f"{first} and {other} do not measure the same: {shortened(differences)}; give all nodes the same files and "
            "libraries"
        )


def _to_be_sent(job: Job) -> Job:
    """Make a job fit to travel.

    Its paths are absolute, and of the reference it has what a candidate's measurement takes.
    """
    source = job.target.source
    path = local_path(source.model)
    absolute = replace(source, model=source.model if path is None else str(path.absolute()))
    slim = {name: replace(one, activations={}, experts={}) for name, one in job.references.items()}
    return replace(job, target=replace(job.target, source=absolute), references=slim)
