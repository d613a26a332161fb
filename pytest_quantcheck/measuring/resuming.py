"""Resuming an unfinished measurement: its state is saved now and then, and restored exactly."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pytest_quantcheck.compatibility import identity
from pytest_quantcheck.errors import CheckpointError
from pytest_quantcheck.measuring.plan import Plan
from pytest_quantcheck.measuring.reference_hash import hash_of_reference
from pytest_quantcheck.records import Measurement, Provenance
from pytest_quantcheck.storage import Checkpoint

Arrays = Mapping[str, NDArray[Any]]

SHARE = 50
"""Saving takes at most 1/50 of a measurement's time: after each saving, 50 times its duration must pass. A run that is
killed loses no more than that, and the batch that it was at."""

FIRST = 0.1
"""Assumed duration of the first saving, in seconds: it comes after `SHARE` times as many."""

_ORIGIN_ARRAY = "origin"


class Stage:
    """One stage of a measurement, and its state in the checkpoint.

    `origin`: a hash of all that the measurement depends on; the state of another measurement is refused.
    """

    def __init__(self, name: str, checkpoint: Checkpoint | None = None, *, origin: bytes = b"") -> None:
        self._name, self._checkpoint, self._origin = name, checkpoint, np.frombuffer(origin, dtype=np.uint8)
        self._took, self._since = FIRST, time.monotonic()

    def load(self) -> Arrays | None:
        """Load the state last saved, or None.

        Raises:
            CheckpointError: it is damaged, or of another measurement.
        """
        kept = None if self._checkpoint is None else self._checkpoint.load(self._name)
        if kept is not None and not np.array_equal(kept.get(_ORIGIN_ARRAY, ()), self._origin):
            raise CheckpointError(
                f"{self._checkpoint} holds an unfinished measurement of another model, of other prompts or with other "
                "settings or library versions; delete it, or choose another directory."
            )
        return kept

    def save(self, state: Callable[[], Arrays], *, finished: bool = False) -> None:
        """Save the state if the stage is finished or it is time.

        Otherwise `state` is not called.

        Raises:
            StorageError: it cannot be written.
        """
        if self._checkpoint is None or not (finished or time.monotonic() - self._since >= SHARE * self._took):
            return
        arrays = {_ORIGIN_ARRAY: self._origin, **state()}
        began = time.monotonic()
        self._checkpoint.save(self._name, arrays)
        self._since = time.monotonic()
        self._took = self._since - began


def stage_opener(
    checkpoint: Checkpoint | None,
    provenance: Provenance,
    plan: Plan,
    index: Sequence[int],
    reference: Measurement | None,
) -> Callable[[str], Stage]:
    """Make a function that opens a stage of this measurement by name.

    Names of models and prompt sets play no part where the content is known: a run that is resumed may find the same
    files in another place.
    """
    if checkpoint is None:
        return Stage
    taken = None if reference is None else hash_of_reference(reference)
    parts = [identity("resuming", provenance), plan, index, taken]
    origin = hashlib.sha256(msgspec.json.encode(parts)).digest()
    return lambda name: Stage(name, checkpoint, origin=origin)


def flat(parts: Mapping[str, Arrays]) -> dict[str, NDArray[Any]]:
    """Collect the arrays of all parts under names such as `part/name`."""
    return {f"{part}/{name}": array for part, arrays in parts.items() for name, array in arrays.items()}


def under(arrays: Arrays, part: str) -> dict[str, NDArray[Any]]:
    """Select the arrays of one part by their own names.

    >>> under(flat({"a": {"x": 1, "b/y": 2}, "b": {}}), "a")
    {'x': 1, 'b/y': 2}
    """
    prefix = f"{part}/"
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
