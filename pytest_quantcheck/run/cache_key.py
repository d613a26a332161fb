"""What decides a measurement: the key by which it is found again."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from pytest_quantcheck.analyses.saliency import attributable
from pytest_quantcheck.models import LIBRARIES
from pytest_quantcheck.models.formats import FORMATS
from pytest_quantcheck.models.pretrained import choose_device
from pytest_quantcheck.models.source import content_hash
from pytest_quantcheck.records import SCHEMA, Measurement

if TYPE_CHECKING:
    from pytest_quantcheck.measuring import Plan
    from pytest_quantcheck.models.source import Source
    from pytest_quantcheck.prompts import PromptSet

_LIBRARIES = dict.fromkeys(("pytest-quantcheck", *LIBRARIES, *(name for one in FORMATS for name in one.libraries)))
"""The packages of which a release may change a number."""


def cache_key(
    source: Source, bits: str, prompts: PromptSet, plan: Plan, reference: Measurement | None
) -> dict[str, Any]:
    """All that decides what a measurement will be; names of models and folders have no part in it.

    Args:
        source: where the model's files are, on this machine.
        bits: what it is loaded as.
        prompts: the prompt set.
        plan: what is measured.
        reference: the reference's measurement when a candidate is measured.

    Raises:
        ModelError: the device is not there, or a file is not the one that the model's own checksums name.
    """
    device = choose_device(source.device)
    return {
        "schema": SCHEMA,
        "content": content_hash(source),
        "bits": bits,
        "dtype": source.dtype,
        "neurons": source.neurons,
        "prompts": prompts.hash,
        "plan": asdict(plan),
        "reference": None if reference is None else _taken_from(reference),
        "device": _described(device),
        "libraries": {name: _version(name) for name in _LIBRARIES},
    }


def _taken_from(reference: Measurement) -> str:
    """SHA-256 over what a candidate's measurement takes from its reference's."""
    answers, digest = reference.answers, hashlib.sha256()
    attributed = np.array([layer for layer, found in reference.saliency.items() if attributable(found.converged)])
    parts: list[NDArray[Any]] = [answers.index, answers.token, answers.support, attributed]
    parts += [layer.correlated for layer in reference.activations.values()]
    for part in parts:
        digest.update(f"{part.shape}".encode() + np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def _described(device: torch.device) -> str:
    """The kind of processor: kernels differ, and so do the last bits."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
