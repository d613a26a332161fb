"""Which FFNs of a layer can be judged: one, or those of a mixture's experts that tokens reach in both models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_quantcheck.records import Activations, Measurement
from pytest_quantcheck.text import shortened

Ffns = tuple[Activations, ...]
"""What each FFN of a layer did that can be compared."""


def seen_in_both(before: Activations, after: Activations) -> bool:
    """Say whether enough tokens reached an FFN in both models.

    They are of at least two groups of prompts, so that each can be left out.
    """
    return all(sum(group.count > 0 for group in one.groups) > 1 for one in (before, after))


def judged(reference: Measurement, candidate: Measurement, layer: int) -> tuple[Ffns, Ffns]:
    """Select a layer's FFNs that can be compared, in both models."""
    pairs = [pair for pair in zip(reference.ffns(layer), candidate.ffns(layer), strict=True) if seen_in_both(*pair)]
    return tuple(before for before, _ in pairs), tuple(after for _, after in pairs)


def expert_notes(reference: Measurement, candidate: Measurement) -> Iterator[str]:
    """Name the experts that too few tokens reached to be judged."""
    for layer, before in reference.experts.items():
        pairs = enumerate(zip(before.neurons, candidate.experts[layer].neurons, strict=True))
        left_out = [f"{expert}" for expert, pair in pairs if not seen_in_both(*pair)]
        if left_out:
            yield (
                f"layer {layer}: {len(left_out)} of {len(before.neurons)} experts are not judged, because too few "
                f"tokens reached them: {shortened(left_out, most=8)}"
            )


def of_all(ffns: Ffns, find: Callable[[Activations], NDArray[Any]]) -> NDArray[Any]:
    """Join what `find` says of the neurons of each FFN, (..., neurons)."""
    return np.concatenate([find(ffn) for ffn in ffns], axis=-1)
