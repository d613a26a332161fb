"""One model at one bit-width, loaded, checked and described."""

from __future__ import annotations

import contextlib
import gc
import importlib.metadata
import io
import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from ..errors import ModelError
from .bits import DTYPES, QUANTIZED, RELEASED, dtype_name, multiplies, quantization_config
from .identity import Source, chat_template_hash, content_hash, local_path, vocabulary_hash
from .neurons import Neurons, find_neurons
from .quantized_layers import has_quantized, kind_of, module_types

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


def load(source: Source, bits: str = "reference") -> LoadedModel:
    """Load a model at a bit-width: `reference` (the dtype of `source`), `bf16 fp16 fp32 int8 nf4 fp4`, or `released`.

    `released` is a checkpoint that was quantized before, as its own configuration says and in its own float format.

    Raises:
        ModelError: the model does not exist, cannot be read, does not fit, has no known FFN or, loaded as
            quantized, has not one quantized layer.
    """
    with _quiet():
        return _loaded(source, bits)


def _loaded(source: Source, bits: str) -> LoadedModel:
    if source.is_gguf:
        from .gguf import load_gguf, unpack_gguf  # noqa: PLC0415 - which loads by way of this function

        if bits == RELEASED:
            return load_gguf(source)
        with tempfile.TemporaryDirectory(prefix="quantcheck-") as folder:
            return load(unpack_gguf(source, Path(folder)), bits)
    if bits == RELEASED:
        from .released import load_released  # noqa: PLC0415 - which loads by way of this module

        return load_released(source)
    device = choose_device(source.device)
    with _explained(source, bits):
        tokenizer = _tokenizer(source)
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


def choose_device(device: str) -> torch.device:
    """The device by its name; `auto` is the first CUDA device, or the CPU where there is none."""
    if device == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ModelError(f"--quantcheck-device={device}: expected auto, cpu or cuda[:N]") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"--quantcheck-device={device}: torch {torch.__version__} sees no CUDA device here")
    return chosen


def _arguments(source: Source) -> tuple[str, dict[str, Any]]:
    """The name and the keyword arguments that find a model's files, for `from_pretrained`."""
    common = {"revision": source.revision, "trust_remote_code": source.trust_remote_code}
    return str(local_path(source.model) or source.model), common


def _tokenizer(source: Source) -> Any:
    from transformers import AutoTokenizer  # noqa: PLC0415 - heavy

    name, arguments = _arguments(source)
    tokenizer = AutoTokenizer.from_pretrained(name, padding_side="left", **arguments)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0)
    return tokenizer


def _model(source: Source, bits: str, device: torch.device) -> Any:
    name, arguments = _arguments(source)
    dtype: Any = DTYPES.get(bits) or DTYPES.get(source.dtype, "auto")
    quantized = bits in QUANTIZED
    extra = _quantized_arguments(bits, _half(name, arguments, dtype), device) if quantized else {}
    model = _from_files(source, dtype=dtype, **extra)
    return _ready(model if quantized else model.to(device), device)


def _from_files(source: Source, **extra: Any) -> Any:
    name, arguments = _arguments(source)
    safe = {} if source.allow_pickle else {"use_safetensors": True}
    return _pretrained(name, **arguments, **safe, **extra)


def _ready(model: Any, device: torch.device) -> Any:
    """The model as it is measured: without dropout, its parameters frozen, its kernels those that are fast here."""
    _multiply_in_float32(model, device)
    _hand_over_contiguous(model.get_output_embeddings())
    return model.eval().requires_grad_(requires_grad=False)


def _pretrained(name: str, **arguments: Any) -> Any:
    """A model whose every weight comes from the checkpoint; transformers makes up those that are not there."""
    from transformers import AutoModelForCausalLM  # noqa: PLC0415 - heavy

    model, report = AutoModelForCausalLM.from_pretrained(name, output_loading_info=True, **arguments)
    made_up = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])})
    if made_up:
        more = f" and {len(made_up) - 3} more" if len(made_up) > 3 else ""
        raise ModelError(
            f"{name}: weights are missing or of another shape than config.json says: {', '.join(made_up[:3])}{more}. "
            "Check that the files are complete and belong together."
        )
    return model


def _half(name: str, arguments: dict[str, Any], dtype: Any) -> torch.dtype:
    """The float format that the checkpoint will be loaded in."""
    from transformers import AutoConfig  # noqa: PLC0415 - heavy

    if isinstance(dtype, torch.dtype):
        return dtype
    return AutoConfig.from_pretrained(name, **arguments).dtype or torch.float32


def _quantized_arguments(bits: str, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    compute = dtype if multiplies(dtype, device) else torch.float32
    return {"quantization_config": quantization_config(bits, compute), "device_map": {"": device}}


def _multiply_in_float32(model: nn.Module, device: torch.device) -> None:
    """Where the CPU has no half-precision matrix kernels, multiply in float32 and round the result.

    That is what a half-precision kernel with float32 accumulation computes, and ten times faster than the loops
    that torch falls back to.
    """
    for module in model.modules():
        if type(module) is nn.Linear and not kind_of(module) and not multiplies(module.weight.dtype, device):
            module.forward = partial(_rounded_linear, module)  # type: ignore[method-assign]


def _rounded_linear(module: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    bias = None if module.bias is None else module.bias.float()
    return nn.functional.linear(x.float(), module.weight.float(), bias).to(x.dtype)


def _hand_over_contiguous(head: nn.Module | None) -> None:
    """Give the output head contiguous hidden states.

    Only the answer position's are wanted of it, a slice, and for a slice torch copies the whole head once for each
    prompt: more than half the time of a forward pass of a 135M model.
    """
    if head is not None:
        head.register_forward_pre_hook(lambda _module, args: (args[0].contiguous(), *args[1:]))


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


@contextmanager
def _explained(source: Source, bits: str) -> Iterator[None]:
    """Turn whatever a library raises while loading into one sentence about this model."""
    name = source.origin or source.model
    at = "as released" if bits == RELEASED else f"at {bits}"
    try:
        yield
    except ModelError:
        raise
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ModelError(
            f"{name} {at} does not fit into memory: {_first_line(error)}; use a larger machine, "
            "--quantcheck-device or a smaller float format (--quantcheck-dtype)"
        ) from error
    except Exception as error:
        raise ModelError(
            f"{name} cannot be loaded {at}: {type(error).__name__}: {_first_line(error)}. {_next_step(source, error)}"
        ) from error


def _first_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text[:400].rstrip(".") + ("…" if len(text) > 400 else "")


def _next_step(source: Source, error: Exception) -> str:
    text = str(error)
    if "trust_remote_code" in text:
        return "The checkpoint brings code of its own: allow it with --quantcheck-trust-remote-code if you trust it."
    if "model.safetensors" in text and not source.allow_pickle:
        return "If its weights are pickled (pytorch_model.bin) and you trust them: --quantcheck-allow-pickle."
    if local_path(source.model) is None:
        return "Check the hub id and --quantcheck-revision, the network and HF_HUB_OFFLINE."
    return "Check that the files are complete and belong together."


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep to themselves what libraries log below an error, and transformers' progress bars.

    They log while they are imported (torchao once for each kernel that this machine lacks), while they load, and
    bitsandbytes once per layer and forward pass; a user can do nothing about any of it.
    """
    from transformers.utils import logging as transformers_logging  # noqa: PLC0415 - heavy

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    shown: Callable[[], bool] = transformers_logging.is_progress_bar_enabled
    before, disabled = shown(), logging.root.manager.disable
    transformers_logging.disable_progress_bar()
    logging.disable(max(disabled, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(disabled)
        if before:
            transformers_logging.enable_progress_bar()


@contextmanager
def _unseen() -> Iterator[None]:
    """Keep off the terminal what libraries draw and print without asking: nothing else stops them."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield
