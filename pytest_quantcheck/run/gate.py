"""One gate for a run: measures each model once, compares and judges."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from pytest_quantcheck.controls.catalogue import CONTROLS
from pytest_quantcheck.controls.certificate import ControlResult, judge_control, without_verdicts
from pytest_quantcheck.errors import ModelError, NonFiniteError, NotApplicable, SettingsError
from pytest_quantcheck.libraries import ignore_library_warnings
from pytest_quantcheck.metric_names import MetricName
from pytest_quantcheck.metrics import judgeable
from pytest_quantcheck.options import Settings
from pytest_quantcheck.profiles import Profile, load_profile
from pytest_quantcheck.prompts import PromptSet, read_prompts
from pytest_quantcheck.records import REFERENCE, Comparison, Measurement, Verdict
from pytest_quantcheck.run.local_models import LocalModels
from pytest_quantcheck.run.targets import Target, Targets, resolve_targets
from pytest_quantcheck.serving import refuse_unlike
from pytest_quantcheck.storage import Cache
from pytest_quantcheck.text import ONE_OF_THESE, nearest, nearest_first

if TYPE_CHECKING:
    from pytest_quantcheck.models.loaded import LoadedModel
    from pytest_quantcheck.run.baselines import Baseline
    from pytest_quantcheck.run.engines import Engine
    from pytest_quantcheck.run.measurements import Measurements
    from pytest_quantcheck.run.reporters import Progress


class Gate:
    """All that one run measures and judges.

    Making it reads and checks the profile and the prompts, and loads no model. A model is loaded when a test first
    needs its measurement, measured on every prompt set, and freed: there is never more than one in memory. With `shard`
    only that one of each set is measured, by number and count.

    Raises:
        SettingsError: two prompt sets of one name, or a candidate that would be equal to the reference.
        ModelError: a path that does not exist, or layers that the reference's configuration does not have.
        StorageError: a baseline that is missing or was measured otherwise, a cache that cannot be written.
        PromptError: a prompt set that cannot be read.
        ProfileError: a profile that cannot be read.
    """

    def __init__(
        self,
        settings: Settings,
        progress: Progress | None = None,
        *,
        models: LocalModels | None = None,
        shard: tuple[int, int] | None = None,
    ) -> None:
        self.settings, self._shard = settings, shard
        self.profile: Profile = (
            load_profile(settings.profile).with_limits(settings.fail).allowing(settings.allow_unmeasured)
        )
        self.prompt_sets: dict[str, PromptSet] = _by_name(
            read_prompts(
                source,
                columns=settings.columns,
                template=settings.template,
                samples=settings.samples,
                seed=settings.seed,
            )
            for source in settings.prompts
        )
        self._baseline = self._find_baseline()
        self.targets: Targets = resolve_targets(settings, self._baseline.model if self._baseline else None)
        self._models, self._progress = models or LocalModels(), progress
        self._measured: dict[tuple[str, str], Measurement] = {}
        self._compared: dict[tuple[str, str], Comparison] = {}
        self._failed: dict[str, tuple[Exception, TracebackType | None]] = {}
        self._cache = Cache(Path(settings.cache)) if settings.cache else None
        if self._cache:
            self._cache.check_writable()

    @property
    def model(self) -> str:
        """The reference's name: as the user gave it, else as the baseline has it."""
        return self.targets.reference.label

    @property
    def candidates(self) -> tuple[str, ...]:
        """The candidates' names, in the order in which they are measured: bit-widths, then released checkpoints."""
        return tuple(target.name for target in self.targets.candidates)

    @property
    def controls(self) -> tuple[str, ...]:
        """The controls' names, in the order in which they are measured; none unless they are asked for."""
        return tuple(target.name for target in self.targets.controls)

    @property
    def metrics(self) -> tuple[MetricName, ...]:
        """The metrics that are gated and measured, in the order of tables."""
        attributed, scored = self.settings.attribution.method != "off", self.settings.continuation > 0
        return judgeable(self.profile.metrics, attributed=attributed, scored=scored)

    @property
    def loaded(self) -> tuple[Target, ...]:
        """The models that are loaded, controls aside; a baseline stands for the reference."""
        return (*[self.targets.reference] * (self._baseline is None), *self.targets.candidates)

    @property
    def stored_configuration(self) -> Mapping[str, str] | None:
        """What decides how the reference is served, as the baseline has it; None without one."""
        return self._baseline.configuration if self._baseline else None

    def check_prompts(self) -> None:
        """Let the reference's tokenizer read every prompt; a baseline's has, and that of one file is known later.

        Raises:
            PromptError: a prompt that the model cannot read; names its row.
        """
        if self._baseline is None:
            from pytest_quantcheck.measuring.tokenized import tokenize_all  # noqa: PLC0415 - heavy

            with suppress(ModelError), ignore_library_warnings():  # the tests have those
                tokenize_all(self._models.files(self.targets.reference), self.prompt_sets, self.settings.readout)

    def load(self, target: str = REFERENCE) -> LoadedModel:
        """Load a model; `with gate.load("int8") as loaded:` frees it afterwards.

        Args:
            target: `reference`, what `--quantcheck-bits` takes, or the name of a released candidate.

        Raises:
            ModelError: it cannot be loaded.
            SettingsError: this run has no such model.
        """
        model = self.targets.find(target)
        if model.kind == "control":
            raise SettingsError(f"{target} is a control, which is made from the reference: load that instead")
        with ignore_library_warnings():
            return self._models.load(model)

    def measure(self, target: str = REFERENCE, prompts: str | None = None) -> Measurement:
        """Measure what a model does on a prompt set, once per run.

        The reference's measurement is the baseline's where there is one; what the cache holds is taken from there.

        Args:
            target: `reference`, what `--quantcheck-bits` takes, or the name of a released candidate.
            prompts: name of the prompt set; may be left out when there is one.

        Raises:
            QuantcheckError: it cannot be loaded or measured. Asked again, the same error is raised without a new try.
        """
        model, name = self.targets.find(target), self._prompt_set(prompts)
        self._raise_again(model)
        if (model.name, name) not in self._measured:
            self._measure_now(model, lambda name, measurement: self._measured.update({(model.name, name): measurement}))
        return self._measured[model.name, name]

    def compare(self, candidate: str, prompts: str | None = None) -> Comparison:
        """Compare a candidate or control with the reference on a prompt set.

        The result names the profile that judges it.

        A control is loaded once for all prompt sets, and only its comparisons are kept: a gate has many controls, and
        a wide model's measurement is large.

        Raises:
            ComparisonError: the candidate is the reference, to the last bit: it was never quantized.
            NotApplicable: the control makes no sense for this model.
            QuantcheckError: a model cannot be loaded or measured.
        """
        from pytest_quantcheck.comparing import refuse_identical  # noqa: PLC0415 - heavy

        target, name = self.targets.find(candidate), self._prompt_set(prompts)
        self._raise_again(target)
        if (target.name, name) not in self._compared:
            self._compare_now(target, name)
        comparison = self._compared[target.name, name]
        return comparison if target.kind == "control" else refuse_identical(comparison)

    def judge(self, metric: MetricName, candidate: str, prompts: str | None = None) -> Verdict | None:
        """Judge one metric of a candidate by the profile; None when it does not gate that metric."""
        from pytest_quantcheck.judging import judge  # noqa: PLC0415 - heavy

        return judge(self.compare(candidate, prompts), metric, self.profile)

    def judge_control(self, control: str, prompts: str | None = None) -> ControlResult:
        """Judge whether a control did what it must: pass, or be seen by a metric. Raises as `compare` does.

        A control that makes no sense for this model, and a defect that leaves nothing to measure, are results too.
        """
        name = self._prompt_set(prompts)
        try:
            self.compare(control, name)
        except NotApplicable as reason:
            return without_verdicts(control, name, "not applicable", str(reason))
        except NonFiniteError as error:
            if CONTROLS[control].kind != "defect":
                raise
            return without_verdicts(control, name, "passed", str(error), seen_by=self.metrics)
        verdicts = [verdict for metric in self.metrics if (verdict := self.judge(metric, control, name))]
        return judge_control(control, name, verdicts, done=self._measurements.applied[control])

    def remarks(self, target: str, prompts: str) -> tuple[str, ...]:
        """Describe each damaged cache entry in a sentence: the reference's, then the target's."""
        remarks = self._measurements.remarks
        return tuple(
            remark for name in dict.fromkeys((REFERENCE, target)) for remark in remarks.get((name, prompts), ())
        )

    def _compare_now(self, target: Target, prompt_set: str) -> None:
        if target.kind == "control":
            self._measure_now(target, partial(self._take_comparison, target))
        else:
            self._take_comparison(target, prompt_set, self.measure(target.name, prompt_set))

    def _take_comparison(self, target: Target, prompt_set: str, measurement: Measurement) -> None:
        from pytest_quantcheck.comparing import compare  # noqa: PLC0415 - heavy

        reference = self.measure(REFERENCE, prompt_set)
        notes = (*self._models.notes(target), *self.remarks(target.name, prompt_set))
        with ignore_library_warnings():
            comparison = compare(reference, measurement, name=target.name, profile=self.profile, notes=notes)
        self._compared[target.name, prompt_set] = comparison

    def _measure_now(self, target: Target, take: Callable[[str, Measurement], None]) -> None:
        """Hand each prompt set's name and measurement to `take`; an error is kept, as a new try would fail alike."""
        references = {}
        if target.kind != "reference":
            self._check_candidate(target)
            references = {name: self.measure(REFERENCE, name) for name in self.prompt_sets}
        with self._only_try(target):
            for name, measurement in self._measurements.measure(target, references):
                take(name, measurement)

    def _check_candidate(self, target: Target) -> None:
        """Check a candidate against its reference before anything is measured."""
        with self._only_try(target):
            self._models.check(target)
            self._engine.check(target)
        if target.kind == "checkpoint":
            reference = self._reference_fields()
            with self._only_try(target):
                fields, allowed = self._models.served_fields(target), self.settings.allow_difference
                refuse_unlike(target.label, reference, fields, allowed)

    def _reference_fields(self) -> Mapping[str, str]:
        """Read what decides how the reference is served: a baseline has it."""
        if self.stored_configuration is not None:
            return self.stored_configuration
        reference = self.targets.reference
        self._raise_again(reference)
        with self._only_try(reference):
            return self._models.served_fields(reference)

    @contextmanager
    def _only_try(self, target: Target) -> Iterator[None]:
        try:
            with ignore_library_warnings():
                yield
        except Exception as error:
            _clear_frames(error)
            self._failed[target.name] = error, error.__traceback__
            raise

    def _raise_again(self, target: Target) -> None:
        """Raise an earlier error from its own place: each test that it passed has added frames since."""
        if target.name in self._failed:
            error, place = self._failed[target.name]
            raise error.with_traceback(place)

    def start_engine(self) -> None:
        """Start the workers of this run, and check the room for models.

        Raises:
            SettingsError: the cluster is not there or has too little room, or its workers are not alike.
            ModelError: they lack the device, or `--quantcheck-max-memory` is too little for a model.
        """
        self._engine.start()
        if self.settings.max_memory:
            self._check_room()

    def close(self) -> None:
        """End the workers of this run."""
        if "_engine" in self.__dict__:
            self._engine.close()

    def _check_room(self) -> None:
        for target in self.loaded:
            with ignore_library_warnings():
                try:
                    self._models.check(target)
                except ModelError:  # the tests of this target say it
                    continue
                self._engine.check(target)

    @cached_property
    def _engine(self) -> Engine:
        from pytest_quantcheck.run.engines import engine_of  # noqa: PLC0415 - heavy

        return engine_of(self.settings, self._models, self._progress)

    @cached_property
    def _measurements(self) -> Measurements:
        from pytest_quantcheck.run.measurements import Measurements  # noqa: PLC0415 - heavy

        return Measurements(
            self.settings,
            self._models,
            self.prompt_sets,
            baseline=self._baseline,
            cache=self._cache,
            shard=self._shard,
            engine=self._engine,
            progress=self._progress,
        )

    def _find_baseline(self) -> Baseline | None:
        settings = self.settings
        if not settings.baseline or settings.update_baseline:
            return None
        from pytest_quantcheck.run.baselines import find_baseline  # noqa: PLC0415 - heavy

        return find_baseline(Path(settings.baseline), self.prompt_sets, settings)

    def _prompt_set(self, name: str | None) -> str:
        set_names = list(self.prompt_sets)
        if name is None and len(set_names) == 1:
            return set_names[0]
        if name not in self.prompt_sets:
            word = str(name or "")
            names, hint = ", ".join(nearest_first(word, set_names)), nearest(word, set_names) or ONE_OF_THESE
            raise SettingsError(f"expected the name of a prompt set ({names}), got {name!r:.100}.{hint}")
        return name


def _clear_frames(error: BaseException | None) -> None:
    """Empty the frames of an error that is kept: they would hold the model in memory."""
    while error:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _by_name(prompt_sets: Iterable[PromptSet]) -> dict[str, PromptSet]:
    named: dict[str, PromptSet] = {}
    for prompts in prompt_sets:
        if prompts.name in named:
            raise SettingsError(
                f"--quantcheck-prompts: {named[prompts.name].source} and {prompts.source} would both be called "
                f"{prompts.name!r} in test ids; rename one file"
            )
        named[prompts.name] = prompts
    return named
