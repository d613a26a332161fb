"""What this machine and its libraries offer to a model."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from pytest_quantcheck.libraries import ignore_library_warnings, installed
from pytest_quantcheck.models.float_formats import multiplies
from pytest_quantcheck.models.formats import FORMATS
from pytest_quantcheck.models.pretrained import choose_device, silence_libraries
from pytest_quantcheck.models.source import is_offline

_GB = 1e9


def environment_lines() -> Iterator[str]:
    """Yield lines on devices, kernels, threads, memory, disks, formats and the hub; a lack begins with `warning:`."""
    yield from _devices()
    yield from _kernels()
    threads = os.environ.get("OMP_NUM_THREADS")
    yield (
        f"threads: torch takes {torch.get_num_threads()} of {os.cpu_count()} processors; OMP_NUM_THREADS is "
        f"{threads or 'not set'}"
    )
    yield f"memory: {_describe_memory()}"
    yield from _disks()
    yield from _formats()
    yield "hub: HF_HUB_OFFLINE is set, nothing is fetched" if is_offline() else "hub: models may be fetched"


def _devices() -> Iterator[str]:
    yield f"device: auto is {choose_device('auto')}"
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        name = torch.cuda.get_device_name(number)
        yield f"device: cuda:{number} is {name}, {free / _GB:.1f} of {total / _GB:.1f} GB free"
    if not torch.cuda.is_available():
        formats = ", ".join(weight_format.method for weight_format in FORMATS if weight_format.needs_gpu)
        yield f"warning: torch {torch.__version__} sees no CUDA device; not to be gated here: {formats}"


def _kernels() -> Iterator[str]:
    halves = {"bf16": torch.bfloat16, "fp16": torch.float16}
    cpu = torch.device("cpu")
    slow = [name for name, dtype in halves.items() if not multiplies(dtype, cpu)]
    yield f"instruction set: {torch.backends.cpu.get_cpu_capability()}"
    if slow:
        yield f"warning: this CPU does not multiply {' and '.join(slow)} itself; such layers are multiplied in float32"
    with silence_libraries(), ignore_library_warnings():
        from bitsandbytes import cextension, functional  # noqa: PLC0415 - heavy

        native = isinstance(cextension.lib, cextension.BNBNativeLibrary)
        cuda, bf16 = bool(getattr(cextension.lib, "compiled_with_cuda", False)), bool(functional.has_avx512bf16())
    if native:
        yield f"bitsandbytes: kernels for {'CUDA' if cuda else 'the CPU'}; AVX512-BF16 {'used' if bf16 else 'not here'}"
    else:
        yield "warning: bitsandbytes cannot load its kernels; see `python -m bitsandbytes`"


def _describe_memory() -> str:
    limit, path = "", Path("/sys/fs/cgroup/memory.max")
    if path.exists() and (most := path.read_text().strip()).isdecimal():
        limit = f"; at most {int(most) / _GB:.1f} GB for this container"
    try:
        page, total, free = (os.sysconf(f"SC_{name}") for name in ("PAGE_SIZE", "PHYS_PAGES", "AVPHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return f"not known here{limit}"
    return f"{page * free / _GB:.1f} of {page * total / _GB:.1f} GB free{limit}"


def _disks() -> Iterator[str]:
    from huggingface_hub import constants  # noqa: PLC0415 - heavy

    places = {
        "the working directory": Path.cwd(),
        "temporary files, where GGUF files are unpacked": Path(tempfile.gettempdir()),
        "the hub's cache": Path(constants.HF_HUB_CACHE),
    }
    for what, path in places.items():
        existing = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
        yield f"disk: {shutil.disk_usage(existing).free / _GB:.1f} GB free in {path} ({what})"


def _formats() -> Iterator[str]:
    """Yield each format with the packages that it needs."""
    for weight_format in FORMATS:
        name = weight_format.method or (weight_format.file.suffix if weight_format.file else "")
        versions = {package: installed(package) for package in weight_format.packages}
        if missing := [package for package, version in versions.items() if version is None]:
            yield (
                f"warning: {name} candidates need {' and '.join(missing)}, not installed: "
                f"pip install {' '.join(missing)}"
            )
        else:
            needs = ", ".join(f"{package} {version}" for package, version in versions.items())
            yield f"format: {name} candidates, {f'with {needs}' if needs else 'with transformers alone'}"
