"""Going on where a measurement died: its state is kept now and then, and taken up again exactly."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pytest_quantcheck.errors import StorageError
from pytest_quantcheck.measuring.plan import Plan
from pytest_quantcheck.records import Measurement, Provenance
from pytest_quantcheck.storage import Checkpoint

Arrays = Mapping[str, NDArray[Any]]

SHARE = 50
"""Writing takes at most one part in so many of a measurement's time: so many times what the last writing took must pass
before the next. One that dies loses no more than that, and the batch it was at."""

FIRST = 0.1
"""Seconds that the first writing is taken to need before it is made: it comes after `SHARE` times as many."""

_ORIGIN = "origin"


class Stage:
    """One stage of a measurement: what is kept of it in a checkpoint, if there is one.

    `origin`: a hash of all that the measurement depends on; what was kept of another is refused.
    """

    def __init__(self, name: str, checkpoint: Checkpoint | None = None, *, origin: bytes = b"") -> None:
        self._name, self._checkpoint, self._origin = name, checkpoint, np.frombuffer(origin, dtype=np.uint8)
        self._took, self._since = FIRST, time.monotonic()

    def load(self) -> Arrays | None:
        """Return the state that was last kept; None where none was.

        Raises:
            StorageError: it is damaged, or of another measurement.
        """
        kept = None if self._checkpoint is None else self._checkpoint.load(self._name)
        if kept is not None and not np.array_equal(kept.get(_ORIGIN, ()), self._origin):
            raise StorageError(
                f"{self._checkpoint} holds a measurement under way of another model, of other prompts or with other "
                "settings or library versions; delete it, or choose another directory."
            )
        return kept

    def save(self, state: Callable[[], Arrays], *, finished: bool = False) -> None:
        """Keep the state if the stage is finished or enough time has passed; else it is not even asked for.

        Raises:
            StorageError: it cannot be written.
        """
        if self._checkpoint is None or not (finished or time.monotonic() - self._since >= SHARE * self._took):
            return
        arrays = {_ORIGIN: self._origin, **state()}
        began = time.monotonic()
        self._checkpoint.save(self._name, arrays)
        self._since = time.monotonic()
        self._took = self._since - began


def stages_of(
    checkpoint: Checkpoint | None,
    provenance: Provenance,
    plan: Plan,
    index: Sequence[int],
    reference: Measurement | None,
) -> Callable[[str], Stage]:
    """Return what opens the stages, by name, of the measurement that is made of all this and of nothing else.

    What things are called plays no part where their content is known: a run that goes on may find the same files at
    another place.
    """
    if checkpoint is None:
        return Stage
    if provenance.content_hash is not None:
        provenance = msgspec.structs.replace(provenance, model="", revision=None)
    origin = hashlib.sha256(msgspec.json.encode([msgspec.structs.replace(provenance, prompt_set=""), plan, index]))
    if reference is not None:
        answers = reference.answers
        attributed = [array for layer in reference.saliency.values() for array in (layer.index, layer.converged)]
        for array in (answers.index, answers.token, answers.support, *attributed):
            origin.update(array.tobytes())
    return lambda name: Stage(name, checkpoint, origin=origin.digest())


def flat(parts: Mapping[str, Arrays]) -> dict[str, NDArray[Any]]:
    """Return the arrays of all parts under names such as `part/name`."""
    return {f"{part}/{name}": array for part, arrays in parts.items() for name, array in arrays.items()}


def under(arrays: Arrays, part: str) -> dict[str, NDArray[Any]]:
    """Return the arrays of one part by their own names.

    >>> under(flat({"a": {"x": 1, "b/y": 2}, "b": {}}), "a")
    {'x': 1, 'b/y': 2}
    """
    prefix = f"{part}/"
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
