"""Check a checkpoint's files before its weights are loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.models.float_formats import DTYPES
from pytest_quantcheck.models.formats import FORMATS
from pytest_quantcheck.models.formats.format import Config, File, Format
from pytest_quantcheck.models.pretrained import (
    check_folder,
    choose_device,
    file_arguments,
    read_complete,
    silence_libraries,
    translate_load_errors,
)
from pytest_quantcheck.models.source import Source, local_path
from pytest_quantcheck.packages import installed
from pytest_quantcheck.records import REFERENCE, RELEASED


@dataclass(frozen=True)
class QuantizedCheckpoint:
    """A quantized checkpoint as its files describe it.

    `name`: its format in words, such as `bitsandbytes nf4`. `model`: its own name, for messages. `header`: its
    `quantization_config`, or the header of its one file.
    """

    name: str
    model: str
    format: Format
    header: Any

    def require(self, device: torch.device) -> None:
        """Make sure that this machine can load the format.

        Raises:
            ModelError: a package or the device is missing; says which, and what to do.
        """
        if self.format.needs_gpu and device.type != "cuda":
            raise ModelError(
                f"{self.model} is quantized ({self.name}), whose kernels need a CUDA device, and the device is "
                f"{device}: measure it on a machine with a GPU, with --quantcheck-device=cuda"
            )
        missing = [package for package in self.format.packages if installed(package) is None]
        if missing:
            raise ModelError(
                f"{self.model} is quantized ({self.name}), which needs {' and '.join(self.format.packages)}, and "
                f"{' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} not installed here: "
                f"pip install {' '.join(missing)}"
            )


def check(source: Source, load_as: str) -> None:
    """Check a released checkpoint's files, before its reference is measured for hours.

    Does nothing for a model that is not loaded as released.

    Raises:
        ModelError: the files are not there, damaged as far as their headers show, not quantized, or in a format for
            which a package or a device is missing here.
    """
    if load_as == RELEASED:
        recognise(source).require(choose_device(source.device))


def recognise(source: Source) -> QuantizedCheckpoint:
    """Read a checkpoint's format from its `config.json` or its file's header.

    Raises:
        ModelError: there is no configuration or the file is damaged; the checkpoint is not quantized, or in an unknown
            format.
    """
    model, packed = source.origin or source.model, find_file_format(source)
    if packed is None:
        check_folder(source)
    with translate_load_errors(source, RELEASED):
        if packed:
            one, file = packed
            header = file.inspect(_path(source))
        else:
            header = _read_config(source, model)
            one = _match(header, model)
        return QuantizedCheckpoint(one.describe(header), model, one, header)


def read_header(source: Source) -> None:
    """Read the header of a reference that is one file.

    Raises:
        ModelError: the file is damaged as far as its header shows.
    """
    packed = find_file_format(source)
    assert packed is not None  # of any other model the configuration is read
    with translate_load_errors(source, REFERENCE):
        packed[1].read_header(_path(source))


def unpacked(source: Source, folder: Path, load_as: str = REFERENCE) -> Source:
    """Unpack a one-file model into a plain checkpoint in a folder.

    Returns the source of the plain checkpoint; the source itself for any other model. `load_as` is for messages.

    Raises:
        ModelError: the file does not exist, is not whole, or holds something that transformers leaves out.
    """
    if (packed := find_file_format(source)) is None:
        return source
    with translate_load_errors(source, load_as), silence_libraries():
        packed[1].unpack(_path(source), folder, DTYPES.get(source.dtype, torch.float32), read_complete)
    return replace(source, model=str(folder), origin=source.model)


@contextmanager
def plain_files(source: Source, load_as: str) -> Iterator[Source]:
    """Yield the source of files that transformers reads; what was unpacked is deleted afterwards."""
    if find_file_format(source) is None:
        yield source
        return
    with TemporaryDirectory(prefix="quantcheck-") as folder:
        yield unpacked(source, Path(folder), load_as)


def find_file_format(source: Source) -> tuple[Format, File] | None:
    """Return the format of a model that is one file; None for any other."""
    return next(((one, one.file) for one in FORMATS if one.file and source.model.endswith(one.file.suffix)), None)


def _path(source: Source) -> Path:
    path = local_path(source.model)
    assert path is not None  # a file is never looked up on the hub
    return path


def _read_config(source: Source, model: str) -> Config:
    from transformers import PreTrainedConfig  # noqa: PLC0415 - heavy

    name, arguments = file_arguments(source)
    config, _ = PreTrainedConfig.get_config_dict(name, revision=arguments["revision"])
    nested = config.get("text_config") or {}
    found: Config | None = config.get("quantization_config") or nested.get("quantization_config")
    if not found:
        raise ModelError(
            f"{model} is not quantized: its config.json has no quantization_config. "
            "A candidate is a quantized checkpoint; this one may be the reference, --quantcheck-model"
        )
    if not isinstance(found, dict):
        raise ModelError(f"{model}: expected an object as quantization_config in config.json, got {str(found)[:80]!r}")
    return found


def _match(config: Config, model: str) -> Format:
    found = next((one for one in FORMATS if one.matches(config)), None)
    implied = next((one for one in FORMATS if one.implied_by(config)), found)
    if found is None or implied is not found:
        methods = ", ".join(one.method for one in FORMATS if one.method)
        beside = f" beside fields of {implied.method}" if implied and implied is not found else ""
        raise ModelError(
            f"{model}: expected a quant_method of {methods} in the quantization_config of config.json, "
            f"got {config.get('quant_method')!r}{beside}; release it in one of these formats to have it measured"
        )
    return found
