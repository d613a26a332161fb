"""Where measurements come from: the baseline, the cache, or a model that is loaded and measured now."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pytest_quantcheck.errors import StorageError
from pytest_quantcheck.models.source import local_path
from pytest_quantcheck.options import Settings
from pytest_quantcheck.prompts import PromptSet
from pytest_quantcheck.records import Measurement
from pytest_quantcheck.run.baselines import Baseline, store_baseline
from pytest_quantcheck.run.engines import Engine, Opened
from pytest_quantcheck.run.jobs import Job
from pytest_quantcheck.run.local_models import LocalModels
from pytest_quantcheck.run.reporters import Progress, reporting
from pytest_quantcheck.run.targets import Target
from pytest_quantcheck.storage import Cache, Entry

if TYPE_CHECKING:
    from pytest_quantcheck.measuring import Plan

References = Mapping[str, Measurement]
"""The reference's measurement by prompt set."""


class Measurements:
    """Measures a run's targets on its prompt sets.

    With a cache, each is measured once on this machine.

    `applied` says of each control that was measured what was done to the reference; `remarks` of each target
    and prompt set what was damaged in the cache.
    """

    def __init__(
        self,
        settings: Settings,
        models: LocalModels,
        prompt_sets: Mapping[str, PromptSet],
        *,
        baseline: Baseline | None,
        cache: Cache | None,
        shard: tuple[int, int] | None,
        engine: Engine,
        progress: Progress | None,
    ) -> None:
        self._settings, self._models, self._prompt_sets = settings, models, prompt_sets
        self._baseline, self._cache, self._progress = baseline, cache, progress
        self._plan = replace(plan_of(settings), shard=shard)
        self._engine = engine
        self.applied: dict[str, str] = {}
        self.remarks: dict[tuple[str, str], tuple[str, ...]] = {}

    def measure(self, target: Target, references: References) -> Iterator[tuple[str, Measurement]]:
        """Yield each prompt set's name and measurement: stored, cached, or made now.

        Args:
            target: what to measure; a model that is measured now is in memory meanwhile.
            references: the reference's measurements; empty for the reference itself.

        Raises:
            QuantcheckError: it cannot be loaded, measured or stored, or was not made from this reference.
        """
        if target.kind == "reference" and self._settings.baseline is not None:
            baseline = self._baseline or store_baseline(Path(self._settings.baseline), dict(self._made(target, {})))
            if self._baseline and self._settings.model is not None:
                self._check_baseline(baseline, target)
            yield from ((name, baseline.load(name)) for name in self._prompt_sets)
        else:
            yield from self._made(target, references)

    def _check_baseline(self, baseline: Baseline, reference: Target) -> None:
        """Refuse a baseline of another model, where the reference's files are here."""
        if local_path(reference.source.model) is not None:
            baseline.check_files(self._models.files(reference))

    def _made(self, target: Target, references: References) -> Iterator[tuple[str, Measurement]]:
        """Yield measurements from the cache, or made now."""
        entries = self._entries(target, references)
        with ExitStack() as locks:
            measurements = {}
            for name, entry in sorted(entries.items(), key=lambda pair: pair[1].directory):  # one order everywhere
                try:
                    with reporting(self._progress, f"{target.name} on {name}") as reporter:
                        waiting = partial(reporter.say, "waiting for another process that measures it", log=True)
                        locks.enter_context(entry.locked(waiting))
                    if cached := entry.load_or_set_aside():
                        measurements[name] = cached
                except StorageError as problem:
                    self._remark(target, name, *entry.remarks, _without_cache(problem))
                    del entries[name]
            for name, measurement in measurements.items():
                yield name, _renamed(measurement, target, name)
            missing = [name for name in self._prompt_sets if name not in measurements]
            if missing:
                yield from self._measure_now(target, missing, references, entries)

    def _measure_now(
        self, target: Target, names: list[str], references: References, entries: Mapping[str, Entry]
    ) -> Iterator[tuple[str, Measurement]]:
        job = Job(target, self._plan, self._prompt_sets, references, self._settings.allow_difference)
        with self._opened(job) as opened:
            if opened.applied is not None:
                self.applied[target.name] = opened.applied
            for name in names:
                entry = entries.get(name)
                with reporting(self._progress, f"{target.name} on {name}") as reporter:
                    make = partial(opened.measure, name, progress=reporter)
                    measurement = _measure_and_save(make, entry) if entry else make(None)
                if entry:
                    self._remark(target, name, *entry.remarks)
                yield name, measurement

    @contextmanager
    def _opened(self, job: Job) -> Iterator[Opened]:
        """Load a job's model; what is said meanwhile stands until the first phase."""
        with ExitStack() as stack:
            with reporting(self._progress, job.target.name) as reporter:
                reporter.say("loading")
                opened = stack.enter_context(self._engine.open(job))
            yield opened

    def _remark(self, target: Target, prompt_set: str, *remarks: str) -> None:
        """Keep what happened to a cache entry."""
        label = f"{target.name} on {prompt_set}"
        self.remarks[target.name, prompt_set] = tuple(f"{label}: {remark}" for remark in remarks)

    def _entries(self, target: Target, references: References) -> dict[str, Entry]:
        """Find the cache's entry for each prompt set; controls are never cached, as they test the gate."""
        if self._cache is None or target.kind == "control":
            return {}
        from pytest_quantcheck.run.cache_key import cache_key, origin_of  # noqa: PLC0415 - heavy

        files, processor = self._models.files(target), self._engine.processor(target.source.device)
        keys = {
            name: cache_key(files, target.load_as, prompts, self._plan, references.get(name), processor=processor)
            for name, prompts in self._prompt_sets.items()
        }
        return {name: self._cache.entry(key, origin_of(key)) for name, key in keys.items()}


def _measure_and_save(make: Callable[..., Measurement], entry: Entry) -> Measurement:
    """Take up the finished shards, measure the others, and save the whole.

    Where nothing can be written the measurement is made without the cache.
    """
    measurement = None
    try:
        measurement = make(entry)
        entry.save(measurement)
    except StorageError as problem:
        entry.remarks.append(_without_cache(problem))
    return measurement or make(None)


def _without_cache(problem: StorageError) -> str:
    return f"measured without the cache, which could not be used: {problem}"


def plan_of(settings: Settings) -> Plan:
    """Take from the settings what a measurement holds."""
    from pytest_quantcheck.measuring import Plan  # noqa: PLC0415 - heavy

    return Plan(
        layers=settings.layers,
        readout=settings.readout,
        attribution=settings.attribution,
        samples=settings.attribution_samples,
        tokens=settings.attribution_tokens,
        continuation=settings.continuation,
        batch_size=settings.batch_size,
        shard_size=settings.shard_size,
        seed=settings.seed,
        redundancy_neurons=settings.redundancy_neurons,
    )


def _renamed(cached: Measurement, target: Target, prompt_set: str) -> Measurement:
    """Give a cached measurement the names of this run: it may have been made of copies of the files elsewhere."""
    names = {"model": target.source.model, "revision": target.source.revision, "prompt_set": prompt_set}
    return replace(cached, provenance=msgspec.structs.replace(cached.provenance, **names))
