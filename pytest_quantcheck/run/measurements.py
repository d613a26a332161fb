"""Where measurements come from: the baseline, the cache, or a model that is loaded and measured now."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pytest_quantcheck.controls.catalogue import CONTROLS
from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.options import Settings
from pytest_quantcheck.prompts import PromptSet
from pytest_quantcheck.records import REFERENCE, Measurement
from pytest_quantcheck.run.baselines import Baseline, store_baseline
from pytest_quantcheck.run.targets import Subjects, equal_to_reference
from pytest_quantcheck.storage import Cache, Entry

if TYPE_CHECKING:
    from pytest_quantcheck.measuring import Plan, ProgressReporter
    from pytest_quantcheck.models.loading import LoadedModel


class Supply:
    """Measures a run's models on its prompt sets, each at most once on this machine if there is a cache.

    Args:
        settings: the options.
        subjects: where the models come from.
        prompt_sets: by name.
        baseline: the stored reference, where there is one.
        cache: where measurements are kept, if they are.
        load: loads a reference or a candidate by name, to be freed by who asked for it.
        progress: makes who is told how far a measurement is.
    """

    def __init__(
        self,
        settings: Settings,
        subjects: Subjects,
        prompt_sets: Mapping[str, PromptSet],
        *,
        baseline: Baseline | None,
        cache: Cache | None,
        load: Callable[[str], LoadedModel],
        progress: Callable[[str], AbstractContextManager[ProgressReporter | None]] | None,
    ) -> None:
        self._settings, self._subjects, self._prompt_sets = settings, subjects, prompt_sets
        self._baseline, self._cache, self._load, self._progress = baseline, cache, load, progress
        self.done: dict[str, str] = {}
        """What was done to the reference to make each control."""

    def reference(self) -> dict[str, Measurement]:
        """The reference's measurement on each prompt set; a baseline's, where one is named, new or old.

        Raises:
            QuantcheckError: it cannot be loaded, measured or stored.
        """
        baseline = self._baseline
        if baseline is not None:
            if self._settings.model is not None:
                baseline.check_files(self._subjects.named(REFERENCE))
        elif self._settings.baseline is not None:
            baseline = store_baseline(Path(self._settings.baseline), dict(self.measured(REFERENCE, {})))
        else:
            return dict(self.measured(REFERENCE, {}))
        return {name: baseline.load(name) for name in self._prompt_sets}

    def measured(self, subject: str, references: Mapping[str, Measurement]) -> Iterator[tuple[str, Measurement]]:
        """Yield each prompt set's name and measurement, from the cache or made now; a model is in memory meanwhile.

        Args:
            subject: a candidate or a control.
            references: the reference's measurements, by prompt set; empty for the reference itself.

        Raises:
            QuantcheckError: it cannot be loaded or measured, or is no candidate for this reference.
        """
        entries = self._entries(subject, references)
        with ExitStack() as locks:
            for name, entry in sorted(entries.items(), key=lambda pair: pair[1].directory):  # in one order everywhere
                with self._telling(f"{subject} on {name}") as told:
                    waiting = partial(told.say, "waiting for another process that measures it", log=True)
                    locks.enter_context(entry.locked(waiting))
            found = {name: cached for name, entry in entries.items() if (cached := entry.load())}
            for name, measurement in found.items():
                yield name, self._renamed(subject, name, measurement)
            missing = [name for name in self._prompt_sets if name not in found]
            if missing:
                yield from self._measure(subject, missing, references, entries)

    def _measure(
        self,
        subject: str,
        names: list[str],
        references: Mapping[str, Measurement],
        entries: Mapping[str, Entry],
    ) -> Iterator[tuple[str, Measurement]]:
        from pytest_quantcheck.measuring import measure  # noqa: PLC0415 - heavy

        model, revision = self._subjects.label(subject)
        with self._told_loading(subject, self._base(subject, references)) as loaded:
            plan = self._prepared(subject, loaded, references)
            for name in names:
                entry = entries.get(name)
                with self._telling(f"{subject} on {name}") as progress:
                    measurement = measure(
                        loaded,
                        self._prompt_sets[name],
                        plan,
                        model=model,
                        revision=revision,
                        reference=references.get(name),
                        progress=progress,
                        checkpoint=entry.checkpoint if entry else None,
                    )
                if entry:
                    entry.save(measurement)
                yield name, measurement

    def _told_loading(self, subject: str, base: str) -> LoadedModel:
        with self._telling(subject) as told:
            told.say("loading")
            return self._load(base)

    @contextmanager
    def _telling(self, label: str) -> Iterator[ProgressReporter]:
        """Who is told how far it is; perhaps nobody."""
        from pytest_quantcheck.measuring import NoProgress  # noqa: PLC0415 - heavy

        with self._progress(label) if self._progress else nullcontext() as told:
            yield told or NoProgress()

    def _entries(self, subject: str, references: Mapping[str, Measurement]) -> dict[str, Entry]:
        """The cache's entry for each prompt set; none without a cache. Controls are made anew: they are tests."""
        if self._cache is None or subject in CONTROLS:
            return {}
        from pytest_quantcheck.run.cache_key import cache_key  # noqa: PLC0415 - heavy

        source, bits, plan = self._subjects.source(subject), self._subjects.bits(subject), self._plan()
        return {
            name: self._cache.entry(cache_key(source, bits, prompts, plan, references.get(name)))
            for name, prompts in self._prompt_sets.items()
        }

    def _renamed(self, subject: str, prompt_set: str, cached: Measurement) -> Measurement:
        """A cached measurement under the names of this run: it may have been made of copies of the files elsewhere."""
        model, revision = self._subjects.label(subject)
        names = {"model": model, "revision": revision, "prompt_set": prompt_set}
        return replace(cached, provenance=msgspec.structs.replace(cached.provenance, **names))

    def _base(self, subject: str, references: Mapping[str, Measurement]) -> str:
        """What to load: a control is made from the reference."""
        if subject not in CONTROLS:
            return subject
        from pytest_quantcheck.controls.nulls import bits_of  # noqa: PLC0415 - heavy

        return bits_of(subject, _any(references).provenance.dtype)

    def _prepared(self, subject: str, loaded: LoadedModel, references: Mapping[str, Measurement]) -> Plan:
        """Make a control of the loaded model, or refuse a candidate that is none; the plan to measure it by."""
        if subject in CONTROLS:
            from pytest_quantcheck.controls.nulls import treat  # noqa: PLC0415 - heavy

            plan, self.done[subject] = treat(loaded, subject, self._plan(), next(iter(self._prompt_sets.values())))
            return plan
        if references and loaded.bits == _any(references).provenance.dtype:
            raise equal_to_reference(loaded.bits)
        if subject in self._subjects.released:
            self._refuse_other(subject, loaded, _any(references))
        return self._plan()

    def _refuse_other(self, subject: str, loaded: LoadedModel, reference: Measurement) -> None:
        """Refuse a checkpoint that is no quantization of the reference, before it is measured."""
        from pytest_quantcheck.comparing.compatibility import release_differences  # noqa: PLC0415 - heavy

        if found := release_differences(reference.provenance, loaded):
            raise ModelError(
                f"{self._subjects.released[subject]} is not the reference quantized: {'; '.join(found)}. Compare the "
                "checkpoint with what it was made from, or name another reference."
            )

    def _plan(self) -> Plan:
        from pytest_quantcheck.measuring import Plan  # noqa: PLC0415 - heavy

        asked = self._settings
        return Plan(
            layers=asked.layers,
            readout=asked.readout,
            attribution=asked.attribution,
            samples=asked.attribution_samples,
            tokens=asked.attribution_tokens,
            batch_size=asked.batch_size,
            seed=asked.seed,
            redundancy_neurons=asked.redundancy_neurons,
        )


def _any(references: Mapping[str, Measurement]) -> Measurement:
    """All are of one model."""
    return next(iter(references.values()))
