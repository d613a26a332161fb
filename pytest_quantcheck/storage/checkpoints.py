"""The state of an unfinished measurement: one file of arrays for each stage, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from pytest_quantcheck.errors import CheckpointError, StorageError
from pytest_quantcheck.storage.atomic import write_atomically
from pytest_quantcheck.user_files import stat_file

_HASH = "sha256"
_SUFFIX = ".safetensors"


class Checkpoint:
    """A directory with the state of an unfinished measurement, by stage.

    Stopped at any point, saving leaves the older state of the stage or the newer one. Arrays come back bit for bit.
    For one process at a time: see `Entry.locked`.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __str__(self) -> str:
        return str(self.directory)

    def load(self, stage: str) -> dict[str, NDArray[Any]] | None:
        """Load the arrays last saved for a stage; None where none were.

        Raises:
            CheckpointError: the file cannot be read, or is not what was saved.
        """
        path = self._path(stage)
        if not os.path.lexists(path):
            return None
        try:
            stat_file(path)
            with safe_open(path, framework="numpy") as file:
                expected = (file.metadata() or {}).get(_HASH)
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        except (SafetensorError, OSError, KeyError, ValueError) as problem:
            raise _unusable(path, f"cannot be read ({problem})") from None
        if _stage_hash(stage, arrays) != expected:
            raise _unusable(path, "is not what was saved: its content has another sha256")
        return arrays

    def save(self, stage: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Save a stage's arrays in place of older ones.

        Raises:
            StorageError: they cannot be written; the older ones are unchanged.
        """
        dense = {name: np.asarray(array, order="C") for name, array in arrays.items()}
        data = safetensors.numpy.save(dense, metadata={_HASH: _stage_hash(stage, dense)})
        write_atomically(self._path(stage), data)

    def clear(self) -> None:
        """Remove all stages, and the temporary files of killed processes.

        Raises:
            StorageError: they cannot be removed.
        """
        try:
            shutil.rmtree(self.directory)
        except FileNotFoundError:
            return
        except OSError as problem:
            raise StorageError(f"cannot remove {self}: {problem.strerror}; check the permissions.") from problem

    def _path(self, stage: str) -> Path:
        return self.directory / f"{stage}{_SUFFIX}"


def _stage_hash(stage: str, arrays: Mapping[str, NDArray[Any]]) -> str:
    """Hash a stage's name and its arrays by SHA-256: names, dtypes, shapes and bytes."""
    digest = hashlib.sha256(stage.encode())
    for name, array in sorted(arrays.items()):
        digest.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _unusable(path: Path, problem: str) -> CheckpointError:
    return CheckpointError(f"{path} {problem}. Delete it; that part of the measurement is then done again.")
