"""One gate for a run: measures each model once, hands out comparisons and verdicts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import msgspec

from .errors import ComparisonError, QuantcheckError, SettingsError
from .options import BIT_WIDTHS, Settings
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
        SettingsError: two prompt sets of one name.
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
        self._failed: dict[str, QuantcheckError] = {}

    @property
    def candidates(self) -> tuple[str, ...]:
        """The candidates' names, in the order in which they are measured."""
        return self.settings.bits

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
        from .models.loading import load  # noqa: PLC0415 - heavy

        return load(self._source, _exact(bits))

    def measure(self, bits: str = REFERENCE, prompts: str | None = None) -> Measurement:
        """What the model does at a bit-width on a prompt set, measured once in a run.

        Args:
            bits: `reference`, or what `--quantcheck-bits` takes.
            prompts: name of the prompt set; may be left out when there is one.

        Raises:
            QuantcheckError: it cannot be loaded or measured; asked again, the same is raised without a new try.
        """
        bits, name = _exact(bits), self._prompt_set(prompts)
        if bits in self._failed:
            raise self._failed[bits]
        if (bits, name) not in self._measured:
            if bits != REFERENCE:
                self.measure(REFERENCE, name)
            try:
                self._measure_everywhere(bits)
            except QuantcheckError as error:
                self._failed[bits] = error
                raise
        return self._measured[bits, name]

    def compare(self, bits: str, prompts: str | None = None) -> Comparison:
        """How far a candidate moved from the reference on a prompt set, with the profile it is judged by.

        Raises:
            ComparisonError: the candidate is the reference, to the last bit: it was never quantized.
            QuantcheckError: a model cannot be loaded or measured.
        """
        bits, name = _exact(bits), self._prompt_set(prompts)
        if (bits, name) not in self._compared:
            self._compared[bits, name] = self._comparison(bits, name)
        return self._compared[bits, name]

    def judge(self, metric: str, bits: str, prompts: str | None = None) -> Verdict | None:
        """The profile's verdict on one metric of a candidate; None when it does not gate that metric."""
        from .judging import judge  # noqa: PLC0415 - heavy

        return judge(self.compare(bits, prompts), metric, self.profile)

    def _comparison(self, bits: str, name: str) -> Comparison:
        from .comparing import Sampling, compare  # noqa: PLC0415 - heavy

        sampling = Sampling(confidence=self.profile.confidence, seed=self.settings.seed)
        reference, candidate = self.measure(REFERENCE, name), self.measure(bits, name)
        comparison = compare(reference, candidate, sampling)
        if comparison.identical:
            raise ComparisonError(
                f"{bits} on {name}: every answer and activation equals the reference's to the last bit, so this "
                f"candidate was never quantized (its modules: {candidate.provenance.module_types})"
            )
        return msgspec.structs.replace(comparison, profile=self.profile)

    def _measure_everywhere(self, bits: str) -> None:
        from .measuring import measure  # noqa: PLC0415 - heavy

        with self.load(bits) as loaded:
            self._refuse_equal(loaded)
            for name, prompts in self.prompt_sets.items():
                with self._announced(f"{bits} on {name}") as progress:
                    self._measured[bits, name] = measure(
                        loaded,
                        prompts,
                        self._plan(),
                        model=self.settings.model,
                        revision=self.settings.revision,
                        reference=self._measured.get((REFERENCE, name)) if bits != REFERENCE else None,
                        progress=progress,
                    )

    def _refuse_equal(self, loaded: LoadedModel) -> None:
        reference = next((m for (bits, _), m in self._measured.items() if bits == REFERENCE), None)
        if reference and loaded.bits == reference.provenance.dtype:
            raise SettingsError(
                f"--quantcheck-bits names {loaded.bits}, which is the precision of the reference: the candidate would "
                "be equal to it; leave it out, or give the reference another precision with --quantcheck-dtype"
            )

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
            batch_size=asked.batch_size,
            seed=asked.seed,
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
