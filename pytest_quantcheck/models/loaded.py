"""A model in memory, with its tokenizer and a description of both."""

from __future__ import annotations

import gc
import importlib.metadata
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Any, Self

import torch

from pytest_quantcheck.models import LIBRARIES
from pytest_quantcheck.models.neurons import Neurons
from pytest_quantcheck.records import QuantizedShare


@dataclass(eq=False)
class LoadedModel:
    """A model in memory with its tokenizer and its description.

    Also a context manager that frees the memory. `model` and `tokenizer` are None after `close()`. `bits`: what the
    model was loaded as. `attribution_memory`: bytes for weights in float32 while it is attributed; None for what is
    free. `device`: where inputs go; `devices`: all that compute, by name; `files`: what the weights on disk are
    read from.
    """

    model: Any
    tokenizer: Any
    bits: str
    dtype: str
    format: str
    device: torch.device
    devices: str
    neurons: Neurons
    module_types: dict[str, int]
    quantization: dict[str, Any] | None
    quantized_share: QuantizedShare | None
    outside_text: dict[str, int]
    content_hash: str | None
    configuration: dict[str, str]
    libraries: dict[str, str] = field(default_factory=dict)
    attribution_memory: int | None = None
    files: ExitStack = field(default_factory=ExitStack)

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return len(self.neurons.blocks)

    @property
    def width(self) -> int:
        """Width of the hidden states."""
        return int(self.model.config.get_text_config(decoder=True).hidden_size)

    @property
    def chat(self) -> bool:
        """Whether the tokenizer has a chat template."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    def close(self) -> None:
        """Free the model; a second call does nothing."""
        self.model = self.tokenizer = None
        self.neurons = Neurons((), (), None)
        self.files.close()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def __enter__(self) -> Self:
        """Return the model itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Free the memory."""
        self.close()


def library_versions(packages: Sequence[str] = ()) -> dict[str, str]:
    """List the versions of what computes the numbers, by package name."""
    return {name: importlib.metadata.version(name) for name in (*LIBRARIES, "numpy", "scipy", *packages)}


def plain_values(config: dict[str, Any]) -> dict[str, Any]:
    """Reduce a configuration to numbers, booleans and text, for the provenance."""
    return {key: value if type(value) in {int, float, str, bool} else _text(value) for key, value in config.items()}


def _text(value: Any) -> str:
    return str(value.value if isinstance(value, Enum) else value)
