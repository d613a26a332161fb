"""Where a model's parts are: on one device, or on several and on disk."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from operator import itemgetter
from typing import Any

import torch
from torch import nn

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.models.files import ModelFiles
from pytest_quantcheck.models.float_formats import DTYPES
from pytest_quantcheck.models.memory import usable_memory
from pytest_quantcheck.models.pretrained import choose_device, quantized_on_disk
from pytest_quantcheck.models.source import Source

_BITS = {"int8": 8, "nf4": 4, "fp4": 4}
"""Of a quantized weight."""


@dataclass(frozen=True)
class Placement:
    """Where a model is to be.

    `device`: where its inputs go. `memory`: bytes that weights may take of each device, in the order in which they are
    filled, under accelerate's names; None: all are on `device`.
    """

    device: torch.device
    memory: Mapping[str | int, int] | None = None

    def arguments(self, folder: str) -> dict[str, Any]:
        """Make the arguments of transformers' `from_pretrained`.

        `folder`: of the model's files; weights on disk that these hold in another form are written there.
        """
        if self.memory is None:
            return {"device_map": {"": self.device}}
        return {"device_map": "sequential", "max_memory": dict(self.memory), "offload_folder": f"{folder}/offloaded"}


def place(files: ModelFiles, load_as: str, *, dense: bool) -> Placement:
    """Place a model where its source says; `auto` is one device if the model fits there.

    `dense`: no weight is quantized once it is loaded. Others stay on the devices that compute.

    Raises:
        ModelError: a device is not there, one block does not fit the first, or quantized weights do not fit.
    """
    source = files.source
    device = choose_device(source.device)
    sizes = _bytes_by_part(files, load_as)
    fits = sizes.total() <= usable_memory(device)
    if source.device != "auto" or (fits and not source.max_memory):
        return Placement(device)
    memory = dict(_memory(source))
    if not dense and device.type != "cpu":
        del memory["cpu"]
    _check_room(files, load_as, sizes, memory, dense=dense)
    return Placement(device, memory)


def _check_room(
    files: ModelFiles, load_as: str, sizes: Counter[str], memory: Mapping[str | int, int], *, dense: bool
) -> None:
    total, room = sizes.total(), sum(memory.values())
    if load_as in _BITS:
        room = room * 9 // 10  # transformers keeps a tenth for what quantizing takes
    if not dense and total > room:
        needed = f"takes {total / 1e6:,.1f} MB, and its weights may take {room / 1e6:,.1f} MB"
        raise quantized_on_disk(files.name, load_as, needed)
    name, room = next(iter(memory.items()))
    part, most = max(sizes.items(), key=itemgetter(1), default=("", 0))
    if most > room:
        device = name if isinstance(name, str) else f"cuda:{name}"
        raise ModelError(
            f"{files.name} as {load_as}: {part.rstrip('.')} alone takes {most / 1e6:,.1f} MB, and weights may take "
            f"{room / 1e6:,.1f} MB of {device}: give them more with --quantcheck-max-memory, or take a larger machine"
        )


def fetched_share(model: nn.Module) -> float:
    """Compute the share of weights fetched whenever a layer is called.

    Of their bytes, in [0, 1]; they are on disk, or on the CPU beside a GPU.
    """
    sizes = Counter[bool]()
    for parameter in model.parameters():
        sizes[parameter.is_meta] += parameter.nbytes
    return sizes[True] / sizes.total()


def set_forward(module: nn.Module, forward: Any) -> None:
    """Replace a module's forward; what fetches its weights stays around it."""
    name = "_old_forward" if hasattr(module, "_hf_hook") else "forward"
    setattr(module, name, forward)


def devices_of(model: Any, placement: Placement) -> str:
    """Name the devices that compute, such as `cuda:0+cuda:1`."""
    own = str(placement.device)
    if placement.memory is None:
        return own
    gpus = {f"cuda:{place}" for place in getattr(model, "hf_device_map", {}).values() if isinstance(place, int)}
    return "+".join(sorted(gpus | {own}))  # what lies on the CPU or on disk is fetched


def _memory(source: Source) -> Iterator[tuple[str | int, int]]:
    """List the devices, first filled first, and what weights may take."""
    asked = dict(source.max_memory)
    here = [torch.device("cuda", number) for number in range(torch.cuda.device_count())] + [torch.device("cpu")]
    names = [str(device) for device in here]
    if absent := [name for name in asked if name not in names]:
        raise ModelError(
            f"--quantcheck-max-memory names {absent[0]}, and torch {torch.__version__} sees {', '.join(names)} here"
        )
    for device, name in zip(here, names, strict=True):
        room = asked.get(name, usable_memory(device))
        yield (name if device.type == "cpu" else device.index), room


def _bytes_by_part(files: ModelFiles, load_as: str) -> Counter[str]:
    """Count the bytes of each block, and of each tensor outside them."""
    dtype = DTYPES.get(load_as) or DTYPES.get(files.source.dtype)
    found: Counter[str] = Counter()
    for name, tensor in files.tensors.items():
        size = tensor.nbytes
        block = re.match(r".*?\.\d+\.", name)
        if load_as in _BITS and block and len(tensor.shape) > 1:
            size = prod(tensor.shape) * _BITS[load_as] // 8
        elif dtype is not None:
            size = prod(tensor.shape) * dtype.itemsize
        found[block[0] if block else name] += size
    return found
