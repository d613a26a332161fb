"""One gate for a run: measures each model once, hands out comparisons and verdicts."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import msgspec

from .certifying import ControlResult, judge_control, without_verdicts
from .controls import CONTROLS
from .errors import NonFiniteError, NotApplicable, SettingsError
from .models.identity import declared_dtype
from .options import BIT_WIDTHS, Settings
from .options.values import DTYPES
from .profiles import Profile, load_profile
from .prompts import PromptSet, read_prompts
from .records import Comparison, Measurement, Verdict

if TYPE_CHECKING:
    from .measuring import Plan, Progress
    from .models.identity import Source
    from .models.loading import LoadedModel

REFERENCE = "reference"


class Gate:
    """All that one run measures and judges.

    Making it reads the profile and the prompts and checks both, and loads no model. A model is loaded when a
    test first needs what it does, measured on every prompt set, and freed: there is never more than one.

    Raises:
        SettingsError: two prompt sets of one name, or a candidate that would be equal to the reference.
        ModelError: a path that leads nowhere.
        PromptError: a prompt set that cannot be read.
        ProfileError: a profile that cannot be read.
    """

    def __init__(self, settings: Settings, progress: Callable[[str], AbstractContextManager[Progress]] | None = None):
        self.settings = settings
        self.profile: Profile = (
            load_profile(settings.profile).with_limits(settings.fail).allowing(settings.allow_unmeasured)
        )
        self.prompt_sets: dict[str, PromptSet] = _named(
            read_prompts(source, template=settings.template, samples=settings.samples, seed=settings.seed)
            for source in settings.prompts
        )
        self._progress = progress
        self._measured: dict[tuple[str, str], Measurement] = {}
        self._compared: dict[tuple[str, str], Comparison] = {}
        self._failed: dict[str, Exception] = {}
        self._done: dict[str, str] = {}
        declared = declared_dtype(settings.model)
        if settings.dtype == "auto" and declared and (dtype := DTYPES.get(declared)) in settings.bits:
            raise _equal_to_reference(dtype)

    @property
    def candidates(self) -> tuple[str, ...]:
        """The candidates' names, in the order in which they are measured."""
        return self.settings.bits

    @property
    def controls(self) -> tuple[str, ...]:
        """The controls' names, in the order in which they are measured; none unless they are asked for."""
        return tuple(CONTROLS) if self.settings.controls or self.settings.calibrate else ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that the profile gates and that this run can measure."""
        attributed = self.settings.attribution.method != "off"
        return tuple(name for name in self.profile.metrics if attributed or name != "salient_overlap")

    def load(self, bits: str = REFERENCE) -> LoadedModel:
        """Load the model at a bit-width; `with gate.load("int8") as loaded:` frees it afterwards.

        Args:
            bits: `reference`, or what `--quantcheck-bits` takes.

        Raises:
            ModelError: it cannot be loaded.
            SettingsError: no such bit-width.
        """
        bits = _exact(bits)
        with _without_library_warnings():
            from .models.loading import load  # noqa: PLC0415 - heavy

            return load(self._source, bits)

    def measure(self, bits: str = REFERENCE, prompts: str | None = None) -> Measurement:
        """What the model does at a bit-width on a prompt set, measured once in a run.

        Args:
            bits: `reference`, or what `--quantcheck-bits` takes.
            prompts: name of the prompt set; may be left out when there is one.

        Raises:
            QuantcheckError: it cannot be loaded or measured. Whatever is raised is raised again without a new try
                when asked again.
        """
        bits, name = _exact(bits), self._prompt_set(prompts)
        if bits in self._failed:
            raise self._failed[bits]
        if (bits, name) not in self._measured:
            if bits != REFERENCE:
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
        from .comparing import refuse_identical  # noqa: PLC0415 - heavy

        bits, name = _exact(bits), self._prompt_set(prompts)
        if (bits, name) not in self._compared:
            reference, candidate = self.measure(REFERENCE, name), self.measure(bits, name)
            with _without_library_warnings():
                self._compared[bits, name] = self._comparison(bits, reference, candidate)
        return refuse_identical(self._compared[bits, name])

    def judge(self, metric: str, bits: str, prompts: str | None = None) -> Verdict | None:
        """The profile's verdict on one metric of a candidate; None when it does not gate that metric."""
        from .judging import judge  # noqa: PLC0415 - heavy

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
        if control in self._failed:
            raise self._failed[control]
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
        from .judging import judge  # noqa: PLC0415 - heavy

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
        return judge_control(control, name, [v for v in verdicts if v is not None], done=self._done[control])

    def _comparison(self, subject: str, reference: Measurement, candidate: Measurement) -> Comparison:
        from .comparing import Sampling, compare  # noqa: PLC0415 - heavy

        sampling = Sampling(confidence=self.profile.confidence, seed=self.settings.seed)
        found = compare(reference, candidate, sampling)
        return msgspec.structs.replace(found, candidate=subject, profile=self.profile)

    @contextmanager
    def _only_try(self, subject: str) -> Iterator[None]:
        """Remember what goes wrong: it would go wrong again."""
        try:
            with _without_library_warnings():
                yield
        except Exception as error:
            _let_go(error)
            self._failed[subject] = error
            raise

    def _measurements(self, subject: str) -> Iterator[tuple[str, Measurement]]:
        """Load the reference, a candidate or a control, and yield each prompt set's name and measurement."""
        from .measuring import measure  # noqa: PLC0415 - heavy

        with self.load(self._bits(subject)) as loaded:
            plan = self._prepared(subject, loaded)
            for name, prompts in self.prompt_sets.items():
                with self._announced(f"{subject} on {name}") as progress:
                    measurement = measure(
                        loaded,
                        prompts,
                        plan,
                        model=self.settings.model,
                        revision=self.settings.revision,
                        reference=self._measured.get((REFERENCE, name)) if subject != REFERENCE else None,
                        progress=progress,
                    )
                yield name, measurement

    def _bits(self, subject: str) -> str:
        """What to load: a control is made from the reference."""
        if subject not in CONTROLS:
            return subject
        from .treating import bits_of  # noqa: PLC0415 - heavy

        return bits_of(subject, next(iter(self._measured.values())).provenance.dtype)

    def _prepared(self, subject: str, loaded: LoadedModel) -> Plan:
        """Make a control of the loaded model, or refuse a candidate that is none; the plan to measure it by."""
        if subject not in CONTROLS:
            self._refuse_equal(loaded)
            return self._plan()
        from .treating import treat  # noqa: PLC0415 - heavy

        first = next(iter(self.prompt_sets.values()))
        plan, self._done[subject] = treat(loaded, subject, self._plan(), first)
        return plan

    def _refuse_equal(self, loaded: LoadedModel) -> None:
        reference = next((m for (bits, _), m in self._measured.items() if bits == REFERENCE), None)
        if reference and loaded.bits == reference.provenance.dtype:
            raise _equal_to_reference(loaded.bits)

    def _announced(self, label: str) -> AbstractContextManager[Progress | None]:
        return self._progress(label) if self._progress else nullcontext()

    def _plan(self) -> Plan:
        from .measuring import Plan  # noqa: PLC0415 - heavy

        asked = self.settings
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

    @cached_property
    def _source(self) -> Source:
        """Where the weights are; a GGUF file is unpacked once, into a folder that lives as long as the gate."""
        from .models.identity import Source  # noqa: PLC0415 - heavy
        from .models.loading import unpack_gguf  # noqa: PLC0415 - heavy

        asked = self.settings
        source = Source(
            model=asked.model,
            revision=asked.revision,
            dtype=asked.dtype,
            device=asked.device,
            neurons=asked.neurons,
            trust_remote_code=asked.trust_remote_code,
            allow_pickle=asked.allow_pickle,
        )
        if not source.is_gguf:
            return source
        self._folder = TemporaryDirectory(prefix="quantcheck-")
        return unpack_gguf(source, Path(self._folder.name))

    def _prompt_set(self, name: str | None) -> str:
        known = list(self.prompt_sets)
        if name is None and len(known) == 1:
            return known[0]
        if name not in self.prompt_sets:
            raise SettingsError(f"expected the name of a prompt set ({', '.join(known)}), got {name!r}")
        return name


def _exact(bits: str) -> str:
    if bits == REFERENCE:
        return bits
    if bits not in BIT_WIDTHS:
        raise SettingsError(f"expected {REFERENCE} or a bit-width ({', '.join(BIT_WIDTHS)}), got {bits!r}")
    return BIT_WIDTHS[bits]


def _known(control: str) -> str:
    if control not in CONTROLS:
        raise SettingsError(f"expected a control ({', '.join(CONTROLS)}), got {control!r}")
    return control


def _equal_to_reference(bits: str) -> SettingsError:
    return SettingsError(
        f"--quantcheck-bits names {bits}, which is the precision of the reference: the candidate would be equal to it; "
        "leave it out, or give the reference another precision with --quantcheck-dtype"
    )


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
