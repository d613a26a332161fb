"""A run's models on this machine: their files, and loading them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING
from weakref import finalize

from pytest_quantcheck.models.checksums import describe_files, verify
from pytest_quantcheck.models.files import ModelFiles, resolve_files
from pytest_quantcheck.models.source import Source
from pytest_quantcheck.records import RELEASED
from pytest_quantcheck.run.targets import Target

if TYPE_CHECKING:
    from pytest_quantcheck.models.loaded import LoadedModel


class LocalModels:
    """Finds and checks the files of each model once, and loads models.

    Unpacked files live as long as this object.
    """

    def __init__(self) -> None:
        self._files: dict[Source, ModelFiles] = {}
        self._plain: dict[Source, ModelFiles] = {}
        self._checked: set[tuple[Source, bool]] = set()
        self._fields: dict[Source, dict[str, str]] = {}
        self._delete: Callable[[], object] | None = None

    def files(self, target: Target) -> ModelFiles:
        """Find a target's files, once, and verify their checksums.

        Raises:
            ModelError: they cannot be fetched, are not a whole model, or differ from the model's own checksums.
        """
        if target.source not in self._files:
            files = resolve_files(target.source)
            verify(files)
            self._files[target.source] = files
        return self._files[target.source]

    def load(self, target: Target) -> LoadedModel:
        """Load a target; the caller frees it.

        Raises:
            ModelError: it cannot be loaded.
        """
        from pytest_quantcheck.models.loading import load_files  # noqa: PLC0415 - heavy

        self.check(target)
        return load_files(self.files(target), target.load_as, self._unpacked(target))

    def check(self, target: Target) -> None:
        """Check a target's files, which takes seconds, before anything is measured.

        Raises:
            ModelError: they are missing, visibly damaged, not quantized, or in a format that cannot be loaded here.
        """
        key = target.source, target.load_as == RELEASED
        if key in self._checked:
            return
        from pytest_quantcheck.models.file_checks import CHECKS  # noqa: PLC0415 - heavy

        files = self.files(target)
        for check in CHECKS:
            if check.reads != "bytes" and check.applies(files, target.load_as):  # those were verified when found
                check.run(files, target.load_as)
        self._checked.add(key)

    def served_fields(self, target: Target) -> dict[str, str]:
        """Read what decides how a target is computed and served, once.

        Raises:
            ModelError: as of `check`.
        """
        self.check(target)
        if target.source not in self._fields:
            from pytest_quantcheck.models.served_fields import served_fields  # noqa: PLC0415 - heavy

            self._fields[target.source] = served_fields(self.files(target), target.load_as)
        return self._fields[target.source]

    def notes(self, target: Target) -> tuple[str, ...]:
        """Say which files of a checkpoint were gated."""
        return (describe_files(self.files(target)),) if target.kind == "checkpoint" else ()

    def delete_unpacked(self) -> None:
        """Delete unpacked files now: a process that is killed does not."""
        if self._delete:
            self._delete()

    def _unpacked(self, target: Target) -> ModelFiles | None:
        """Unpack a reference that is one file, once."""
        files = self.files(target)
        if target.load_as == RELEASED or not files.is_one_file:
            return None
        if target.source not in self._plain:
            from pytest_quantcheck.models.released import unpacked  # noqa: PLC0415 - heavy

            self._plain[target.source] = unpacked(files, self._folder / str(len(self._plain)))
        return self._plain[target.source]

    @cached_property
    def _folder(self) -> Path:
        folder = Path(mkdtemp(prefix="quantcheck-"))
        self._delete = finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return folder
