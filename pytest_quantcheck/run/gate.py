"""One gate for a run: measures each model once, hands out comparisons and verdicts."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import msgspec

from pytest_quantcheck.controls.catalogue import CONTROLS
from pytest_quantcheck.controls.certificate import ControlResult, judge_control, without_verdicts
from pytest_quantcheck.errors import NonFiniteError, NotApplicable, SettingsError
from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.options import Settings
from pytest_quantcheck.profiles import Profile, load_profile
from pytest_quantcheck.prompts import PromptSet, read_prompts
from pytest_quantcheck.records import REFERENCE, Comparison, Measurement, Verdict
from pytest_quantcheck.run.targets import Subjects
from pytest_quantcheck.storage import Cache

if TYPE_CHECKING:
    from pytest_quantcheck.measuring import ProgressReporter
    from pytest_quantcheck.models.loading import LoadedModel
    from pytest_quantcheck.run.baselines import Baseline
    from pytest_quantcheck.run.measurements import Supply


class Gate:
    """All that one run measures and judges.

    Making it reads the profile and the prompts and checks both, and loads no model. A model is loaded when a
    test first needs what it does, measured on every prompt set, and freed: there is never more than one.

    Raises:
        SettingsError: two prompt sets of one name, or a candidate that would be equal to the reference.
        ModelError: a path that leads nowhere, or layers that the reference's configuration does not have.
        StorageError: a baseline that is not there or was measured otherwise, a cache that cannot be written.
        PromptError: a prompt set that cannot be read.
        ProfileError: a profile that cannot be read.
    """

    def __init__(
        self,
        settings: Settings,
        progress: Callable[[str], AbstractContextManager[ProgressReporter | None]] | None = None,
    ) -> None:
        self.settings = settings
        self.profile: Profile = (
            load_profile(settings.profile).with_limits(settings.fail).allowing(settings.allow_unmeasured)
        )
        self.prompt_sets: dict[str, PromptSet] = _named(
            read_prompts(source, template=settings.template, samples=settings.samples, seed=settings.seed)
            for source in settings.prompts
        )
        self._baseline = self._found_baseline()
        self._subjects = Subjects(settings, self._baseline.model if self._baseline else None)
        self._progress = progress
        self._measured: dict[tuple[str, str], Measurement] = {}
        self._compared: dict[tuple[str, str], Comparison] = {}
        self._failed: dict[str, tuple[Exception, TracebackType | None]] = {}
        self._cache = Cache(Path(settings.cache)) if settings.cache else None
        if self._cache:
            self._cache.check_writable()

    @property
    def model(self) -> str:
        """The reference's name: as the user gave it, else as the baseline has it."""
        return self._subjects.model

    @property
    def candidates(self) -> tuple[str, ...]:
        """The candidates' names, in the order in which they are measured: bit-widths, then released checkpoints."""
        return self._subjects.candidates

    @property
    def controls(self) -> tuple[str, ...]:
        """The controls' names, in the order in which they are measured; none unless they are asked for."""
        return tuple(CONTROLS) if self.settings.controls or self.settings.calibrate else ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that the profile gates and that this run can measure, in the order of tables."""
        gated, attributed = self.profile.metrics, self.settings.attribution.method != "off"
        return tuple(name for name in METRICS if name in gated and (attributed or name != "salient_overlap"))

    def load(self, bits: str = REFERENCE) -> LoadedModel:
        """Load a model; `with gate.load("int8") as loaded:` frees it afterwards.

        Args:
            bits: `reference`, what `--quantcheck-bits` takes, or the name of a released candidate.

        Raises:
            ModelError: it cannot be loaded.
            SettingsError: no such bit-width or candidate.
        """
        subject = self._subjects.exact(bits)
        with _without_library_warnings():
            from pytest_quantcheck.models.loading import load  # noqa: PLC0415 - heavy

            return load(self._subjects.source(subject), self._subjects.bits(subject))

    def measure(self, bits: str = REFERENCE, prompts: str | None = None) -> Measurement:
        """What a model does on a prompt set, measured once in a run.

        The reference's is the baseline's where there is one; what the cache holds is taken from there.

        Args:
            bits: `reference`, what `--quantcheck-bits` takes, or the name of a released candidate.
            prompts: name of the prompt set; may be left out when there is one.

        Raises:
            QuantcheckError: it cannot be loaded or measured. Whatever is raised is raised again without a new try
                when asked again.
        """
        bits, name = self._subjects.exact(bits), self._prompt_set(prompts)
        self._raise_again(bits)
        if (bits, name) not in self._measured:
            if bits != REFERENCE:
                with self._only_try(bits):
                    self._subjects.check(bits)
                self.measure(REFERENCE, name)
            with self._only_try(bits):
                for name_of_set, measurement in self._measurements(bits):
                    self._measured[bits, name_of_set] = measurement
        return self._measured[bits, name]

    def compare(self, bits: str, prompts: str | None = None) -> Comparison:
        """How far a candidate moved from the reference on a prompt set, with the profile it is judged by.

        Raises:
            ComparisonError: the candidate is the reference, to the last bit: it was never quantized.
            QuantcheckError: a model cannot be loaded or measured.
        """
        from pytest_quantcheck.comparing import refuse_identical  # noqa: PLC0415 - heavy

        bits, name = self._subjects.exact(bits), self._prompt_set(prompts)
        if (bits, name) not in self._compared:
            candidate, reference = self.measure(bits, name), self.measure(REFERENCE, name)
            with _without_library_warnings():
                self._compared[bits, name] = self._comparison(bits, reference, candidate)
        return refuse_identical(self._compared[bits, name])

    def judge(self, metric: str, bits: str, prompts: str | None = None) -> Verdict | None:
        """The profile's verdict on one metric of a candidate; None when it does not gate that metric."""
        from pytest_quantcheck.judging import judge  # noqa: PLC0415 - heavy

        return judge(self.compare(bits, prompts), metric, self.profile)

    def compare_control(self, control: str, prompts: str | None = None) -> Comparison:
        """How far a control moved from the reference on a prompt set; one that did not move at all is fine here.

        A control is loaded once for all prompt sets. Of each only the comparison is kept: a gate has many controls,
        and a wide model's measurement is large.

        Raises:
            NotApplicable: the control makes no sense for this model.
            QuantcheckError: it cannot be loaded or measured.
            SettingsError: no such control.
        """
        control, name = _known(control), self._prompt_set(prompts)
        self._raise_again(control)
        if (control, name) not in self._compared:
            self.measure(REFERENCE, name)
            with self._only_try(control):
                for name_of_set, measurement in self._measurements(control):
                    reference = self._measured[REFERENCE, name_of_set]
                    self._compared[control, name_of_set] = self._comparison(control, reference, measurement)
        return self._compared[control, name]

    def judge_control(self, control: str, prompts: str | None = None) -> ControlResult:
        """Whether a control did what it must: pass, or be seen by a metric. Raises as `compare_control` does.

        A control that makes no sense for this model, and a defect that leaves nothing to measure, are results too.
        """
        from pytest_quantcheck.judging import judge  # noqa: PLC0415 - heavy

        name = self._prompt_set(prompts)
        try:
            comparison = self.compare_control(control, name)
        except NotApplicable as reason:
            return without_verdicts(control, name, "not applicable", str(reason))
        except NonFiniteError as error:
            if CONTROLS[control].kind != "defect":
                raise
            return without_verdicts(control, name, "passed", str(error), seen_by=self.metrics)
        verdicts = (judge(comparison, metric, self.profile) for metric in self.metrics)
        return judge_control(control, name, [v for v in verdicts if v is not None], done=self._supply.done[control])

    def _comparison(self, subject: str, reference: Measurement, candidate: Measurement) -> Comparison:
        from pytest_quantcheck.comparing import IntervalSettings, compare  # noqa: PLC0415 - heavy

        intervals = IntervalSettings(confidence=self.profile.confidence, seed=self.settings.seed)
        found = compare(reference, candidate, intervals)
        notes = (*found.notes, *self.prompt_sets[found.prompt_set].notes, *self._subjects.notes(subject))
        return msgspec.structs.replace(found, candidate=subject, profile=self.profile, notes=notes)

    @contextmanager
    def _only_try(self, subject: str) -> Iterator[None]:
        """Remember what goes wrong: it would go wrong again."""
        try:
            with _without_library_warnings():
                yield
        except Exception as error:
            _let_go(error)
            self._failed[subject] = error, error.__traceback__
            raise

    def _raise_again(self, subject: str) -> None:
        """Raise what went wrong before, from where it did: each test that it passed has added its own frames since."""
        if subject in self._failed:
            error, place = self._failed[subject]
            raise error.with_traceback(place)

    def _measurements(self, subject: str) -> Iterable[tuple[str, Measurement]]:
        """Each prompt set's name and the measurement of the reference, a candidate or a control."""
        if subject == REFERENCE:
            return self._supply.reference().items()
        references = {name: self._measured[REFERENCE, name] for name in self.prompt_sets}
        return self._supply.measured(subject, references)

    @cached_property
    def _supply(self) -> Supply:
        from pytest_quantcheck.run.measurements import Supply  # noqa: PLC0415 - heavy

        return Supply(
            self.settings,
            self._subjects,
            self.prompt_sets,
            baseline=self._baseline,
            cache=self._cache,
            load=self.load,
            progress=self._progress,
        )

    def _found_baseline(self) -> Baseline | None:
        asked = self.settings
        if not asked.baseline or asked.update_baseline:
            return None
        from pytest_quantcheck.run.baselines import find_baseline  # noqa: PLC0415 - heavy

        return find_baseline(Path(asked.baseline), self.prompt_sets, asked)

    def _prompt_set(self, name: str | None) -> str:
        known = list(self.prompt_sets)
        if name is None and len(known) == 1:
            return known[0]
        if name not in self.prompt_sets:
            raise SettingsError(f"expected the name of a prompt set ({', '.join(known)}), got {name!r}")
        return name


def _known(control: str) -> str:
    if control not in CONTROLS:
        raise SettingsError(f"expected a control ({', '.join(CONTROLS)}), got {control!r}")
    return control


def _let_go(error: BaseException | None) -> None:
    """Empty the frames of an error that is kept: they would hold the model, and there is never more than one."""
    while error:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


@contextmanager
def _without_library_warnings() -> Iterator[None]:
    """Keep to themselves what libraries warn of while they are imported, load a model or run it.

    A user can do nothing about a name that torch deprecates and transformers still uses; under `-W error` it would
    turn a gate red that has nothing against the model. What the gate has to say are verdicts and errors.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _named(prompt_sets: Iterable[PromptSet]) -> dict[str, PromptSet]:
    named: dict[str, PromptSet] = {}
    for prompts in prompt_sets:
        if prompts.name in named:
            raise SettingsError(
                f"--quantcheck-prompts: {named[prompts.name].source} and {prompts.source} would both be called "
                f"{prompts.name!r} in test ids; rename one file"
            )
        named[prompts.name] = prompts
    return named
