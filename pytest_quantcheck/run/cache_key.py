"""The cache key of a measurement: all that decides its numbers."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from pytest_quantcheck.compatibility import TABLE, Meaning, fields
from pytest_quantcheck.libraries import installed
from pytest_quantcheck.measuring.reference_hash import hash_of_reference
from pytest_quantcheck.models import LIBRARIES
from pytest_quantcheck.models.formats import FORMATS
from pytest_quantcheck.models.pretrained import choose_device
from pytest_quantcheck.records import SCHEMA, Measurement

if TYPE_CHECKING:
    from pytest_quantcheck.measuring import Plan
    from pytest_quantcheck.models.files import ModelFiles
    from pytest_quantcheck.prompts import PromptSet

KEYED_PACKAGES = dict.fromkeys(
    ("pytest-quantcheck", *LIBRARIES, *(name for weight_format in FORMATS for name in weight_format.libraries))
)
"""The packages of which a release may change a number."""


_ORIGIN_FIELDS = ("content_hash", "bits", "prompt_hash", "readout", "seed", "batch_size")
"""Fields that a measurement's provenance holds as the key does; others are resolved while it is made."""


def origin_of(key: dict[str, Any]) -> dict[str, Any]:
    """Select what the provenance of a key's measurement must hold, by field."""
    return {name: key["provenance"][name] for name in _ORIGIN_FIELDS}


def cache_key(
    files: ModelFiles, bits: str, prompts: PromptSet, plan: Plan, reference: Measurement | None, *, processor: str
) -> dict[str, Any]:
    """Make the cache key of a measurement: all that decides its numbers, and no names.

    Args:
        files: the model's.
        bits: what it is loaded as.
        prompts: the prompt set.
        plan: what is measured.
        reference: the reference's measurement when a candidate is measured.
        processor: the kind of device, as `processor_of` names it.

    Raises:
        ModelError: a file cannot be read.
    """
    values = asdict(plan) | {
        "content_hash": files.content_hash,
        "bits": bits,
        "dtype": files.source.dtype,
        "prompt_hash": prompts.hash,
        "device": processor,
        "libraries": {name: installed(name) for name in KEYED_PACKAGES},
    }
    return {
        "schema": SCHEMA,
        "provenance": {name: values[name] for name in fields("cache", Meaning.REFUSED)},
        "plan": {name: value for name, value in asdict(plan).items() if name not in TABLE},
        "neurons": files.source.neurons,
        "reference": None if reference is None else hash_of_reference(reference),
    }


def processor_of(device: str) -> str:
    """Name the kind of processor: on another kind the last bits of a measurement differ.

    Raises:
        ModelError: the device is not there.
    """
    chosen = choose_device(device)
    if chosen.type == "cuda":
        return torch.cuda.get_device_name(chosen)
    return f"{chosen.type} {torch.backends.cpu.get_cpu_capability()}"
