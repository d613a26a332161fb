"""Workers on Ray: each does one task at a time, and one that is lost comes back or is given up."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, cast

import ray
from ray.exceptions import RayError, RayTaskError

from pytest_quantcheck.errors import MeasurementError, QuantcheckError, TooLittleMemoryError
from pytest_quantcheck.run.cluster_worker import Doing, Place, Worker
from pytest_quantcheck.text import duration

TRIES = 3
"""Times that a task is tried, and that a worker may be lost in a row before it is given up."""

LOADING, _ARRIVING, _ABANDONED = 0, -1, -2
"""Tasks; others are a shard's number."""

_STARTING = 120.0
"""Seconds that a process may always take to start: on a busy machine it imports torch for long."""

_POLL = 0.5
"""Seconds between two looks at what workers do."""


@dataclass(frozen=True)
class Lost:
    """In place of a result: the worker was lost, could not go on, or had not enough memory."""

    cause: str
    error: Exception | None = None


@dataclass(eq=False)
class Hired:
    """One worker. `task` is what it does; `lost` counts in a row; `doing` is as of the last look."""

    number: int
    actor: Any
    place: Place | None = None
    task: int | None = None
    result: Any = None
    lost: int = 0
    job: int = 0
    doing: Doing = field(default_factory=lambda: Doing("starting"))
    hangs: bool = False
    _asked: Any = None
    _moved: float = field(default_factory=time.monotonic)

    @property
    def name(self) -> str:
        """Its number, and where it is."""
        return f"worker {self.number}, {self.place.name}" if self.place else f"worker {self.number}"

    @property
    def summary(self) -> str:
        """What it does, in a line."""
        doing = Doing("waiting") if self.task is None else self.doing
        return f"{self.name}: {doing.phase}{f' {doing.done}/{doing.total}' if doing.total else ''}"

    def begin(self, task: int, request: str, *arguments: Any) -> None:
        """Give it something to do."""
        retries = -1 if task == _ARRIVING else 0  # a process that is being restarted refuses tasks
        self.task = task
        self.result = self.actor.do.options(max_task_retries=retries).remote(request, *arguments)
        self.doing, self._moved = Doing("starting"), time.monotonic()
        self._asked = None  # the answer may be of the task before

    def aside(self, method: str, *arguments: Any) -> Any:
        """Ask it for something that it does beside its task."""
        return getattr(self.actor, method).options(concurrency_group="aside").remote(*arguments)

    def look(self) -> float:
        """Look at what it does; return for how many seconds there was no progress."""
        if self._asked is None:
            self._asked = self.aside("progress")
        elif ray.wait([self._asked], timeout=0)[0]:
            with suppress(RayError):
                doing = ray.get(self._asked)
                if doing != self.doing:
                    self.doing, self._moved = doing, time.monotonic()
            self._asked = None
        return time.monotonic() - self._moved


class Crew:
    """The workers of one run; this process is connected to their cluster.

    Args:
        workers: how many.
        gpus: GPUs of each; a fraction shares one.
        cpus: CPUs, and threads, of each.
        device: what `--quantcheck-device` says.
        patience: seconds without progress after which a worker is taken to hang.
    """

    def __init__(self, workers: int, *, gpus: float, cpus: int, device: str, patience: float) -> None:
        self._patience, self._last, self._looked = patience, "none was started", 0.0
        remote = cast("Any", ray).remote(concurrency_groups={"aside": 1}, max_restarts=-1, max_task_retries=0)
        make = remote(Worker).options(num_cpus=cpus, num_gpus=gpus)
        self.workers = [Hired(number + 1, make.remote(device)) for number in range(workers)]
        for worker in self.workers:
            worker.begin(_ARRIVING, "place")

    @property
    def idle(self) -> list[Hired]:
        """Those that have nothing to do."""
        return [worker for worker in self.workers if worker.task is None]

    def arrive(self) -> Iterator[int]:
        """Wait for all workers, as far as they are not given up; yield how many are awaited.

        Raises:
            QuantcheckError: the device is not there, or no worker could be started.
        """
        while (awaited := sum(worker.task == _ARRIVING for worker in self.workers)) or not self.workers:
            yield awaited
            list(self.ended())

    def ended(self) -> Iterator[tuple[Hired, int, Any]]:
        """Wait a moment; yield the tasks that ended, and their results or `Lost`.

        Raises:
            MeasurementError: no worker is left.
            QuantcheckError: what a task raised.
        """
        if not self.workers:
            raise MeasurementError(f"no worker is left to go on with; of the last one: {self._last}")
        busy = {worker.result: worker for worker in self.workers if worker.task is not None}
        if busy and ray.wait(list(busy), timeout=_POLL)[0]:
            for result in ray.wait(list(busy), num_returns=len(busy), timeout=0)[0]:
                yield from self._take(busy[result])
        if time.monotonic() - self._looked >= _POLL:
            self._look_after(busy.values())

    def _look_after(self, workers: Iterable[Hired]) -> None:
        """End workers that hang, and give up those that do not start."""
        self._looked = time.monotonic()
        for worker in workers:
            patience = max(self._patience, _STARTING) if worker.task == _ARRIVING else self._patience
            if worker.task is None or worker.hangs or worker.look() <= patience:
                continue
            if worker.task == _ARRIVING:
                self._last = f"{worker.name} did not start within {duration(patience)}"
                self.dismiss([worker])
            else:
                worker.hangs = True
                ray.kill(worker.actor, no_restart=False)

    def abandon(self, job: int) -> None:
        """Let workers end what they do of a job; nobody waits for it."""
        for worker in self.workers:
            if worker.task is not None and worker.task >= LOADING:
                worker.task = _ABANDONED
                worker.aside("stop", job)

    def dismiss(self, workers: Iterable[Hired]) -> None:
        """End workers, after they have deleted what they unpacked."""
        workers = list(workers)
        with suppress(RayError):
            ray.wait([worker.aside("close") for worker in workers], num_returns=len(workers), timeout=2.0)
        for worker in workers:
            with suppress(RayError, ValueError):
                ray.kill(worker.actor)
            self.workers.remove(worker)

    def _take(self, worker: Hired) -> Iterator[tuple[Hired, int, Any]]:
        """Take the result of a task that ended."""
        task, worker.task = worker.task or LOADING, None
        try:
            result = deepcopy(ray.get(worker.result))  # a copy of our own: Ray's lies in memory that it shares
        except RayTaskError as error:  # none of our errors: a device or a library may be broken there
            result = self._restart(worker, f"{type(error.cause).__name__}: {error.cause}", error)
        except RayError as error:
            hung = f"no progress for {duration(self._patience)}"
            result = self._lose(worker, hung if worker.hangs else f"its process ended ({error})", error)
        if isinstance(result, TooLittleMemoryError):
            result = self._restart(worker, str(result), result)
        if task == _ABANDONED:
            return
        if isinstance(result, QuantcheckError):
            raise result
        if isinstance(result, Place):
            worker.place = result
        elif not isinstance(result, Lost):
            worker.lost = 0
        if task != _ARRIVING:
            yield worker, task, result

    def _restart(self, worker: Hired, why: str, error: Exception) -> Lost:
        """Give a worker that cannot go on a new process."""
        ray.kill(worker.actor, no_restart=False)
        return self._lose(worker, why, error)

    def _lose(self, worker: Hired, why: str, error: Exception) -> Lost:
        """Let a worker that is lost come back; one that was lost too often is given up."""
        worker.hangs, worker.job, worker.lost = False, 0, worker.lost + 1
        self._last = f"{worker.name}: {why}"
        if worker.lost < TRIES:
            worker.begin(_ARRIVING, "place")
        else:
            self.dismiss([worker])
        return Lost(why, error)
