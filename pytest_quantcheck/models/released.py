"""Check a checkpoint's files before its weights are loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.libraries import installed
from pytest_quantcheck.models.files import CHECK_THE_FILES, ModelFiles, resolve_files
from pytest_quantcheck.models.float_formats import DTYPES
from pytest_quantcheck.models.formats import FORMATS
from pytest_quantcheck.models.formats.format import Config, Contents, File, Format, NotAppliedError
from pytest_quantcheck.models.pretrained import library_folder, read_complete
from pytest_quantcheck.models.source import quantization_of
from pytest_quantcheck.records import REFERENCE


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


def recognise(files: ModelFiles) -> QuantizedCheckpoint:
    """Read a checkpoint's format from its `config.json` or its file's header.

    Raises:
        ModelError: the file is damaged; the checkpoint is not quantized, or in an unknown format.
    """
    packed = find_file_format(files)
    if packed:
        weight_format, file = packed
        header = file.inspect(files.paths[0])
        return QuantizedCheckpoint(weight_format.describe(header), files.name, weight_format, header)
    header = _quantization(files)
    weight_format = _match(header, files.name)
    try:
        described = weight_format.describe(header)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ModelError(
            f"{files.name}: the quantization_config of config.json cannot be understood as {weight_format.method}: "
            f"{_told(error)}. Check how it was saved"
        ) from error
    return QuantizedCheckpoint(described, files.name, weight_format, header)


def check_contents(files: ModelFiles, checkpoint: QuantizedCheckpoint) -> None:
    """Check what a candidate's files hold, by the rules of its format; headers and small tensors are read.

    Raises:
        ModelError: names the tensor that is missing, or that nothing here applies.
    """
    stored = files.tensors
    contents = Contents(
        {name: tensor.dtype for name, tensor in stored.items()},
        {name: tensor.shape for name, tensor in stored.items()},
        files.metadata,
        files.read_tensor,
    )
    try:
        checkpoint.format.check(contents, checkpoint.header)
    except (AttributeError, LookupError, TypeError, ValueError) as problem:
        advice = "" if isinstance(problem, NotAppliedError) else f". {CHECK_THE_FILES}"
        raise ModelError(f"{files.name}: {_told(problem)}{advice}") from problem


def check_header(files: ModelFiles) -> None:
    """Check the header of a reference that is one file.

    Raises:
        ModelError: the file is damaged as far as its header shows.
    """
    packed = find_file_format(files)
    assert packed is not None  # of any other model the configuration is read
    packed[1].read_header(files.paths[0])


def unpacked(files: ModelFiles, folder: Path, load_as: str = REFERENCE) -> ModelFiles:
    """Unpack a one-file model into a plain checkpoint in a folder.

    Returns the plain checkpoint's files; the model's own for any other model. `load_as` is for messages.

    Raises:
        ModelError: the file is not whole, or holds something that transformers leaves out.
    """
    if (packed := find_file_format(files)) is None:
        return files
    from transformers import AutoModelForCausalLM  # noqa: PLC0415 - heavy

    dtype, read = DTYPES.get(files.source.dtype, torch.float32), partial(read_complete, AutoModelForCausalLM)
    with library_folder(files, load_as) as place:
        packed[1].unpack(Path(place) / files.names[0], folder, dtype, partial(read, name=files.name))
    return resolve_files(files.source, folder)


@contextmanager
def plain_files(files: ModelFiles, load_as: str) -> Iterator[ModelFiles]:
    """Yield files that transformers reads; what was unpacked is deleted afterwards."""
    if find_file_format(files) is None:
        yield files
        return
    with TemporaryDirectory(prefix="quantcheck-") as folder:
        yield unpacked(files, Path(folder), load_as)


def find_file_format(files: ModelFiles) -> tuple[Format, File] | None:
    """Find the format of a model that is one file; None for a directory.

    Raises:
        ModelError: it is one file of no known format.
    """
    if not files.is_one_file:
        return None
    for weight_format in FORMATS:
        if weight_format.file and files.names[0].endswith(weight_format.file.suffix):
            return weight_format, weight_format.file
    raise ModelError(f"{files.name}: expected a checkpoint's directory or a GGUF file (.gguf), found another file")


def _told(error: Exception) -> str:
    """Write an error's text, after its kind where it is another's."""
    ours = type(error) in {ValueError, NotAppliedError}
    return str(error) if ours else f"{type(error).__name__}: {error}"


def _quantization(files: ModelFiles) -> Config:
    quantization = quantization_of(files.config)
    if not quantization:
        raise ModelError(
            f"{files.name} is not quantized: its config.json has no quantization_config. "
            "A candidate is a quantized checkpoint; this one may be the reference, --quantcheck-model"
        )
    if not isinstance(quantization, dict):
        raise ModelError(
            f"{files.name}: expected an object as quantization_config in config.json, got {str(quantization)[:80]!r}"
        )
    return quantization


def _match(config: Config, model: str) -> Format:
    match = next((weight_format for weight_format in FORMATS if weight_format.matches(config)), None)
    implied = next((weight_format for weight_format in FORMATS if weight_format.implied_by(config)), match)
    if match is None or implied is not match:
        methods = ", ".join(weight_format.method for weight_format in FORMATS if weight_format.method)
        beside = f" beside fields of {implied.method}" if implied and implied is not match else ""
        raise ModelError(
            f"{model}: expected a quant_method of {methods} in the quantization_config of config.json, "
            f"got {config.get('quant_method')!r}{beside}; release it in one of these formats to have it measured"
        )
    return match
