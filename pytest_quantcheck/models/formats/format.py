"""The record that describes a format of quantized weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

Config = dict[str, Any]
"""A checkpoint's `quantization_config`."""

Reader = Callable[..., Any]
"""Reads the model from the checkpoint's files, with keyword arguments of `from_pretrained`."""


def class_name(module: Any) -> str:
    """Return the name of a module's class."""
    return type(module).__name__


def own_bytes(module: nn.Module) -> int:
    """Count the bytes of a module's own parameters and buffers."""
    return sum(tensor.nbytes for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)))


class QuantizedLayer(NamedTuple):
    """One way in which a layer holds a quantized weight."""

    name: str
    """Its name in a measurement's gradient path."""
    matches: Callable[[Any], bool]
    """Whether a module is of this kind; it does not import the format's library."""
    weight: Callable[[Any], torch.Tensor]
    """The weight (out, in) float32 as the layer's own kernel applies it."""
    label: Callable[[Any], str] = class_name
    """The name in `module_types`."""
    differentiable: bool = False
    """Whether the layer's own kernels have a gradient."""
    nbytes: Callable[[Any], int] = own_bytes
    """The bytes of codes and scales in memory."""
    shape: Callable[[Any], tuple[int, ...] | None] = lambda module: tuple(module.weight.shape)
    """The shape of what the files stand for; None where the layer's own loading makes sure of it."""


class File(NamedTuple):
    """A format whose checkpoint is one file that transformers does not quantize."""

    suffix: str
    """The end of the file's name."""
    inspect: Callable[[Path], Any]
    """`inspect(path)` reads the file's header and raises ModelError if the file is damaged or not quantized."""
    unpack: Callable[[Path, Path, torch.dtype, Reader], None]
    """`unpack(path, folder, dtype, read)` writes a plain checkpoint into a folder."""
    read_header: Callable[[Path], Any]
    """`read_header(path)` reads the header of a reference, which need not be quantized."""
    sizes: Callable[[Any], tuple[int, int]]
    """`sizes(header)` counts the bytes of the quantized weights and of all."""
    served_fields: Callable[[Any], dict[str, Any]]
    """`served_fields(header)` says what decides how the model is computed and served, by names such as
    `config.hidden_size`, as far as the file does; `tokenizer.chat_template` is the template itself."""


class Contents(NamedTuple):
    """What a format's own check looks at: the headers of the files of weights, and small tensors of them."""

    types: Mapping[str, str]
    """The type of each tensor in the words of safetensors, such as `BF16`, by its name."""
    shapes: Mapping[str, tuple[int, ...]]
    """Their shapes."""
    metadata: Mapping[str, str]
    """What the files say of themselves beside their tensors."""
    read: Callable[[str], torch.Tensor]
    """Reads a tensor by its name."""


class NotAppliedError(ValueError):
    """The files are whole, and no path here applies what they hold; the text says what to do."""


def load_as_stored(read: Reader, _tensors: Collection[str] = ()) -> Any:
    """Load a model as its configuration says, in its own float format."""
    return read(dtype="auto")


def read_json(name: str, content: bytes | str) -> dict[str, Any]:
    """Read an object that a file of weights holds as JSON.

    `name` is for the ValueError where it is none.
    """
    try:
        return dict(json.loads(content))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is damaged: expected a JSON object in it") from error


def require_parts(contents: Contents, shapes: Mapping[str, int | None]) -> None:
    """Require tensors that belong together.

    Args:
        contents: the files'.
        shapes: how many numbers each of the tensors holds by its name; None for any.

    Raises:
        ValueError: names the tensor that is missing or of another size.
    """
    for name, expected in shapes.items():
        if name not in contents.shapes:
            beside = next(other for other in shapes if other in contents.shapes)
            raise ValueError(f"the files lack {name}, which belongs to {beside}")
        if expected is not None and (stored := prod(contents.shapes[name])) != expected:
            raise ValueError(f"{name} holds {stored:,} numbers, and what belongs to it asks for {expected:,}")


def mark_dequantized(config: Config) -> Config:
    """Mark the configuration of a model whose weights were dequantized on loading."""
    return config | {"dequantized": True}


@dataclass(frozen=True, kw_only=True)
class Format:
    """All that differs between formats of quantized checkpoints.

    `stored_types` and `record` are for models without quantized layers: their weights were dequantized on loading.
    """

    describe: Callable[[Any], str]
    """The format in words, from the configuration or the file's header; ValueError for what it cannot understand."""

    method: str = ""
    """The `quant_method` in the configuration; empty for a format that is one file."""

    implied_by: Callable[[Config], bool] = lambda _: False
    """Whether a configuration that names no method means this format."""

    file: File | None = None
    """Of a format that is one file: how it is read."""

    packages: tuple[str, ...] = ()
    """What the format needs beside transformers, by names on the package index."""

    libraries: tuple[str, ...] = ()
    """The packages of which a release may change a number; they enter the cache key."""

    needs_gpu: bool = False
    """Whether there is no path for a CPU."""

    layers: tuple[QuantizedLayer, ...] = ()
    """The model's quantized layers."""

    load: Callable[[Reader, Collection[str]], Any] = load_as_stored
    """`load(read, tensors)` returns the model; `tensors` are the names in the files."""

    check: Callable[[Contents, Config], None] = lambda *_: None
    """`check(contents, config)` looks at the files before a weight is read.

    ValueError for a tensor that is missing; NotAppliedError for one that no path here applies and that says something
    else than usual, so that with other kernels the model would be another one.
    """

    stored_types: Callable[[Mapping[str, str], Any, nn.Module], dict[str, str]] = lambda *_: {}
    """How the files hold the weights, by module name.

    `stored_types(types, header, model)` takes the types of the files' tensors, and what `describe` takes.
    """

    record: Callable[[Any], Config] = mark_dequantized
    """What the measurement says of the quantization, from what `describe` takes."""

    def matches(self, config: Config) -> bool:
        """Say whether a configuration is of this format."""
        if self.file is not None:
            return False
        named = config.get("quant_method")
        return self.implied_by(config) if named is None else bool(named == self.method)
