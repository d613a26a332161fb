"""What a run measures, by name: the reference, its bit-widths, released checkpoints and controls."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

from pytest_quantcheck.errors import SettingsError
from pytest_quantcheck.models.source import (
    Source,
    content_hash,
    declared_dtype,
    declared_layers,
    describe_files,
    local_path,
    local_source,
)
from pytest_quantcheck.options import BIT_WIDTHS, Settings
from pytest_quantcheck.options.candidate import name_candidates
from pytest_quantcheck.options.values import DTYPES
from pytest_quantcheck.records import REFERENCE, RELEASED


class Subjects:
    """Where each model of a run comes from, and what it is loaded as.

    Making it looks at paths and at one small file, and loads nothing.

    Args:
        settings: the options.
        stored: the reference's name in a baseline that stands for it; None when the reference itself is measured.

    Raises:
        SettingsError: a bit-width that is the reference's precision, or candidates of one name.
        ModelError: a path that leads nowhere, or layers that the reference's configuration does not have.
    """

    def __init__(self, settings: Settings, stored: str | None) -> None:
        self._settings = settings
        self._sources: dict[str, Source] = {}
        self.released = name_candidates(settings.candidate)
        self.model = settings.model or stored or ""
        for one in self.released.values():
            local_path(one.model)
        if stored is None or settings.bits or settings.controls or settings.calibrate:
            self._check_reference()

    @property
    def candidates(self) -> tuple[str, ...]:
        """The candidates' names: bit-widths, then released checkpoints."""
        return (*self._settings.bits, *self.released)

    def exact(self, name: str) -> str:
        """The one name of what a user may spell otherwise.

        Raises:
            SettingsError: there is no such model in this run.
        """
        if name == REFERENCE or name in self.released:
            return name
        spelt = str(name)  # a test may well say 8 where it should say "8"
        if spelt not in BIT_WIDTHS:
            known = ", ".join((REFERENCE, *self.released))
            raise SettingsError(f"expected {known} or a bit-width ({', '.join(BIT_WIDTHS)}), got {name!r}")
        return BIT_WIDTHS[spelt]

    def bits(self, subject: str) -> str:
        """What it is loaded as."""
        return RELEASED if subject in self.released else subject

    def label(self, subject: str) -> tuple[str, str | None]:
        """The model's name and revision for the record."""
        released = self.released.get(subject)
        return (released.model, released.revision) if released else (self.model, self._settings.revision)

    def source(self, subject: str) -> Source:
        """Where its files are on this machine.

        Raises:
            ModelError: they can be had from nowhere, are not those that the model's own checksums name, or a GGUF file
                cannot be read.
        """
        if subject not in self.released:
            return self._reference
        if subject not in self._sources:
            self._sources[subject] = self._local(subject)
        return self._sources[subject]

    def check(self, subject: str) -> None:
        """Look at a released checkpoint's files before its reference is measured, which may take hours.

        Raises:
            ModelError: they are not there, damaged as far as that shows without loading them, not quantized, or in a
                format for which a package or a device is missing here.
        """
        if subject in self.released:
            from pytest_quantcheck.models.checking import check  # noqa: PLC0415 - heavy

            check(self.source(subject), self.bits(subject))

    def notes(self, subject: str) -> tuple[str, ...]:
        """What to know of a subject beside what is measured: of a released checkpoint, which files were gated."""
        return (describe_files(self.source(subject)),) if subject in self.released else ()

    def named(self, subject: str) -> Source:
        """Where its files are, as the user named it; of released ones only a GGUF file heeds the float format."""
        asked = self._settings
        model, revision = self.label(subject)
        return Source(
            model=model,
            revision=revision,
            dtype=asked.dtype,
            device=asked.device,
            neurons=asked.neurons,
            trust_remote_code=asked.trust_remote_code,
            allow_pickle=asked.allow_pickle,
        )

    @cached_property
    def _reference(self) -> Source:
        """A GGUF file is unpacked once, into a folder that lives as long as this object."""
        from pytest_quantcheck.models.checking import find_file_format, unpacked  # noqa: PLC0415 - heavy

        source = self._local(REFERENCE)
        if find_file_format(source) is None:
            return source
        self._folder = TemporaryDirectory(prefix="quantcheck-")
        return unpacked(source, Path(self._folder.name))

    def _local(self, subject: str) -> Source:
        source = local_source(self.named(subject))
        content_hash(source)
        return source

    def _check_reference(self) -> None:
        """The reference's path leads somewhere, its precision is no candidate, its layers and the device are there."""
        asked, declared = self._settings, declared_dtype(self.model)
        if asked.dtype == "auto" and declared and (dtype := DTYPES.get(declared)) in asked.bits:
            raise equal_to_reference(dtype)
        if asked.device.startswith("cuda") and not asked.dry_run:
            from pytest_quantcheck.models.pretrained import choose_device  # noqa: PLC0415 - heavy

            choose_device(asked.device)
        if isinstance(asked.layers, tuple) and (n_layers := declared_layers(self.model)):
            from pytest_quantcheck.models.neurons import choose_layers  # noqa: PLC0415 - heavy

            choose_layers(asked.layers, n_layers)


def equal_to_reference(bits: str) -> SettingsError:
    """The error for a candidate that would be the reference."""
    return SettingsError(
        f"--quantcheck-bits names {bits}, which is the precision of the reference: the candidate would be equal to it; "
        "leave it out, or give the reference another precision with --quantcheck-dtype"
    )
