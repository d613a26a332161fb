"""One model at one bit-width, loaded, checked and described."""

from __future__ import annotations

import gc
import importlib.metadata
import tempfile
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.models.float_formats import DTYPES, QUANTIZED, dtype_name, multiplies, quantization_config
from pytest_quantcheck.models.formats.quantized_layers import has_quantized, module_types
from pytest_quantcheck.models.neurons import Neurons, find_neurons
from pytest_quantcheck.models.pretrained import (
    check_folder,
    choose_device,
    file_arguments,
    prepare_for_inference,
    read_model,
    read_tokenizer,
    silence_libraries,
    translate_load_errors,
)
from pytest_quantcheck.models.source import Source, chat_template_hash, content_hash, vocabulary_hash
from pytest_quantcheck.records import REFERENCE, RELEASED

_LIBRARIES = ("torch", "transformers", "bitsandbytes", "numpy", "scipy")


@dataclass(eq=False)
class LoadedModel:
    """A model in memory with its tokenizer and what is known of it; closing it frees the memory.

    Also a context manager. `model` and `tokenizer` are None after `close()`.
    """

    model: Any
    tokenizer: Any
    bits: str
    dtype: str
    format: str
    device: torch.device
    neurons: Neurons
    module_types: dict[str, int]
    quantization: dict[str, Any] | None
    content_hash: str | None
    vocabulary_hash: str
    chat_template_hash: str
    libraries: dict[str, str] = field(default_factory=dict)

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return len(self.neurons.blocks)

    @property
    def width(self) -> int:
        """Width of the hidden states."""
        return int(self.model.config.hidden_size)

    @property
    def chat(self) -> bool:
        """Whether the tokenizer brings a chat template."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    def close(self) -> None:
        """Free the model; a second call does nothing."""
        self.model = self.tokenizer = None
        self.neurons = Neurons((), (), None)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def __enter__(self) -> Self:
        """The model itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Free it."""
        self.close()


def load(source: Source, bits: str = REFERENCE) -> LoadedModel:
    """Load a model at a bit-width: `reference` (the dtype of `source`), `bf16 fp16 fp32 int8 nf4 fp4`, or `released`.

    `released` is a checkpoint that was quantized before, as its own configuration says and in its own float format.

    Raises:
        ModelError: the model does not exist, cannot be read, does not fit, has no known FFN or, loaded as
            quantized, has not one quantized layer.
    """
    if source.is_gguf:
        from pytest_quantcheck.models.formats.gguf import load_gguf, unpack_gguf  # noqa: PLC0415 - which loads by way of this function

        if bits == RELEASED:
            return load_gguf(source)
        with tempfile.TemporaryDirectory(prefix="quantcheck-") as folder:
            return load(unpack_gguf(source, Path(folder)), bits)
    if bits == RELEASED:
        from pytest_quantcheck.models.formats.released import load_released  # noqa: PLC0415 - which loads by way of this module

        return load_released(source)
    check_folder(source)
    device = choose_device(source.device)
    with translate_load_errors(source, bits), silence_libraries():
        tokenizer = read_tokenizer(source)
        model = _model(source, bits, device)
    if bits not in QUANTIZED and has_quantized(model):
        raise ModelError(
            f"{source.model} is quantized already, and a reference is at full precision: name the model that it was "
            "made from, and gate this one with --quantcheck-candidate"
        )
    if bits in QUANTIZED and not has_quantized(model):
        raise ModelError(
            f"{source.model} loaded as {bits} has not one quantized layer; its modules are {module_types(model)}"
        )
    return described(source, model, tokenizer, device, bits=bits, format_name=bits if bits in QUANTIZED else "none")


def described(
    source: Source, model: Any, tokenizer: Any, device: torch.device, *, bits: str, format_name: str
) -> LoadedModel:
    """A model in memory with all that is known of it.

    Raises:
        ModelError: it has no known FFN.
    """
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        bits=bits,
        dtype=dtype_name(model.dtype),
        format=format_name,
        device=device,
        neurons=find_neurons(model, source.neurons),
        module_types=module_types(model),
        quantization=_described(model),
        content_hash=content_hash(source),
        vocabulary_hash=vocabulary_hash(tokenizer),
        chat_template_hash=chat_template_hash(tokenizer),
        libraries={name: importlib.metadata.version(name) for name in _LIBRARIES},
    )


def _model(source: Source, bits: str, device: torch.device) -> Any:
    name, arguments = file_arguments(source)
    dtype: Any = DTYPES.get(bits) or DTYPES.get(source.dtype, "auto")
    quantized = bits in QUANTIZED
    extra = _quantized_arguments(bits, _half(name, arguments, dtype), device) if quantized else {}
    model = read_model(source, dtype=dtype, **extra)
    return prepare_for_inference(model if quantized else model.to(device), device)


def _half(name: str, arguments: dict[str, Any], dtype: Any) -> torch.dtype:
    """The float format that the checkpoint will be loaded in."""
    from transformers import AutoConfig  # noqa: PLC0415 - heavy

    if isinstance(dtype, torch.dtype):
        return dtype
    return AutoConfig.from_pretrained(name, **arguments).dtype or torch.float32


def _quantized_arguments(bits: str, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    compute = dtype if multiplies(dtype, device) else torch.float32
    return {"quantization_config": quantization_config(bits, compute), "device_map": {"": device}}


def _described(model: Any) -> dict[str, Any] | None:
    config = getattr(model.config, "quantization_config", None)
    if config is None:
        return None
    return in_plain_words(config if isinstance(config, dict) else config.to_dict())


def in_plain_words(config: dict[str, Any]) -> dict[str, Any]:
    """A quantization's configuration with numbers, truth values and text alone, for the measurement's provenance."""
    return {key: value if type(value) in {int, float, str, bool} else _word(value) for key, value in config.items()}


def _word(value: Any) -> str:
    return str(value.value if isinstance(value, Enum) else value)


def check(source: Source, load_as: str) -> None:
    """Shim."""
    if source.is_gguf:
        from pytest_quantcheck.models.formats.gguf import quantized_header

        quantized_header(source)
    else:
        from pytest_quantcheck.models.formats.released import recognise

        recognise(source).require(choose_device(source.device))


def unpacked(source: Source, folder: Path) -> Source:
    """Shim."""
    if not source.is_gguf:
        return source
    from pytest_quantcheck.models.formats.gguf import unpack_gguf

    return unpack_gguf(source, folder)
