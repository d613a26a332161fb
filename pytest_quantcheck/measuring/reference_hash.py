"""What a candidate's measurement takes from its reference, as a hash: part of its cache key."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_quantcheck.analyses.saliency import attributable
from pytest_quantcheck.records import Measurement


def hash_of_reference(reference: Measurement) -> str:
    """Hash what a candidate's measurement takes from its reference. It is a SHA-256, in hexadecimal."""
    answers, digest = reference.answers, hashlib.sha256()
    attributed = np.array([layer for layer, saliency in reference.saliency.items() if attributable(saliency.converged)])
    parts: list[NDArray[Any]] = [answers.index, answers.token, answers.support, attributed]
    parts += [ffn.correlated for layer in reference.provenance.layers for ffn in reference.ffns(layer)]
    if (scored := reference.scored) is not None:
        parts += [scored.index, scored.lengths, scored.token, scored.support]
    for part in parts:
        digest.update(f"{part.shape}".encode() + np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()
