"""A run's models on this machine: their files, and loading them."""

from __future__ import annotations

import shutil
from functools import cached_property
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING
from weakref import finalize

from pytest_quantcheck.models.source import Source, content_hash, describe_files, local_source, refuse_quantized
from pytest_quantcheck.records import RELEASED
from pytest_quantcheck.run.targets import Target

if TYPE_CHECKING:
    from pytest_quantcheck.models.loaded import LoadedModel


class LocalModels:
    """Finds the files of each model once, and loads models. Unpacked files live as long as this object."""

    def __init__(self) -> None:
        self._sources: dict[tuple[Source, bool], Source] = {}

    def source(self, target: Target) -> Source:
        """Find a target's files on this machine; a GGUF file that is not itself the candidate is unpacked.

        Raises:
            ModelError: they cannot be fetched, differ from the model's own checksums, or a GGUF file cannot be read.
        """
        key = target.source, target.load_as == RELEASED
        if key not in self._sources:
            self._sources[key] = self._local(*key)
        return self._sources[key]

    def load(self, target: Target) -> LoadedModel:
        """Load a target; the caller frees it.

        Raises:
            ModelError: it cannot be loaded.
        """
        from pytest_quantcheck.models.loading import load  # noqa: PLC0415 - heavy

        return load(self.source(target), target.load_as)

    def check(self, target: Target) -> None:
        """Check a checkpoint's files before its reference is measured.

        Measuring the reference may take hours.

        Raises:
            ModelError: they are missing, visibly damaged, not quantized, or in a format that cannot be loaded here.
        """
        if target.kind == "checkpoint":
            from pytest_quantcheck.models.file_checks import check_tokenizer, check_weights  # noqa: PLC0415 - heavy
            from pytest_quantcheck.models.released import check, find_file_format  # noqa: PLC0415 - heavy

            source = self.source(target)
            check(source, target.load_as)
            if find_file_format(source) is None:
                check_tokenizer(source, target.load_as)
                check_weights(source)

    def notes(self, target: Target) -> tuple[str, ...]:
        """Say which files of a checkpoint were gated."""
        return (describe_files(self.source(target)),) if target.kind == "checkpoint" else ()

    def _local(self, named: Source, released: bool) -> Source:  # noqa: FBT001 - half of a key
        source = local_source(named)
        content_hash(source)
        if released:
            return source
        refuse_quantized(source)
        from pytest_quantcheck.models.file_checks import check_index  # noqa: PLC0415 - heavy
        from pytest_quantcheck.models.released import unpacked  # noqa: PLC0415 - heavy

        check_index(source)

        return unpacked(source, self._folder / str(len(self._sources)))

    @cached_property
    def _folder(self) -> Path:
        folder = Path(mkdtemp(prefix="quantcheck-"))
        finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return folder
