"""Checkpoints that were quantized before they came here: recognised from their configuration, loaded as it says."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.models.formats.quantized_layers import has_quantized, module_types, scheme_name
from pytest_quantcheck.models.loading import LoadedModel, described, in_plain_words
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
from pytest_quantcheck.models.source import Source, local_path
from pytest_quantcheck.plurals import plural
from pytest_quantcheck.records import RELEASED

_Config = dict[str, Any]

_FP8_SCALES = ("weight_scale_inv", "scale", "qscale_weight")
"""What a float8 weight's scale may be called; each is one that transformers reads."""


@dataclass(frozen=True)
class _Method:
    """What is known of a `quant_method`.

    `name` says the format in words, from the checkpoint's `quantization_config`; `packages` are what it needs beside
    transformers, by their names on the package index; `gpu`: it has no path for a CPU.
    """

    name: Callable[[_Config], str]
    packages: tuple[str, ...]
    gpu: bool = False


@dataclass(frozen=True)
class ReleasedFormat:
    """How a checkpoint is quantized: `name` in words, such as `bitsandbytes nf4`, and what it takes to load it.

    `model` is its own name, for messages, and `config` its `quantization_config`.
    """

    name: str
    model: str
    config: _Config
    packages: tuple[str, ...]
    gpu: bool

    def require(self, device: torch.device) -> None:
        """Make sure that this machine can load the format.

        Raises:
            ModelError: a package or the device is missing; says which, and what to do.
        """
        if self.gpu and device.type != "cuda":
            raise ModelError(
                f"{self.model} is quantized ({self.name}), whose kernels need a CUDA device, and the device is "
                f"{device}: measure it on a machine with a GPU, with --quantcheck-device=cuda"
            )
        missing = [package for package in self.packages if not _installed(package)]
        if missing:
            raise ModelError(
                f"{self.model} is quantized ({self.name}), which needs {' and '.join(self.packages)}, and "
                f"{' and '.join(missing)} {plural(len(missing), 'is', 'are')} not installed here: "
                f"pip install {' '.join(missing)}"
            )


def recognise(source: Source) -> ReleasedFormat:
    """Read from a checkpoint's `config.json`, and nothing else, how it is quantized.

    Raises:
        ModelError: there is no configuration, it is not quantized, or in a way that is not known.
    """
    name = source.origin or source.model
    check_folder(source)
    with translate_load_errors(source, RELEASED):
        config = _quantization_config(source)
        if not config:
            raise ModelError(
                f"{name} is not quantized: its config.json has no quantization_config. "
                "A candidate is a quantized checkpoint; this one may be the reference, --quantcheck-model"
            )
        method = _METHODS.get(_method_name(config))
        if method is None:
            raise ModelError(
                f"{name}: expected a quant_method of {', '.join(_METHODS)} in the quantization_config of config.json, "
                f"got {config.get('quant_method')!r}; release it in one of these formats to have it measured"
            )
        return ReleasedFormat(method.name(config), name, config, method.packages, method.gpu)


def load_released(source: Source) -> LoadedModel:
    """Load a quantized checkpoint as its own configuration says, in its own float format.

    Raises:
        ModelError: as `recognise` and `ReleasedFormat.require`; or the files cannot be read, do not fit, or hold not
            one quantized layer.
    """
    device = choose_device(source.device)
    released = recognise(source)
    released.require(device)
    with translate_load_errors(source, RELEASED), silence_libraries():
        tokenizer = read_tokenizer(source)
        model = read_model(source, dtype="auto", device_map={"": device})
        _decompress(model)
        model = prepare_for_inference(model, device)
    loaded = described(source, model, tokenizer, device, bits=RELEASED, format_name=released.name)
    if not has_quantized(model):
        loaded = _dequantized(loaded, released, source)
    versions = {package: importlib.metadata.version(package) for package in released.packages}
    return replace(loaded, libraries=loaded.libraries | versions)


def _dequantized(loaded: LoadedModel, released: ReleasedFormat, source: Source) -> LoadedModel:
    """Say of a model whose weights were dequantized on loading, as those in fp8 are on a CPU, how its files hold them.

    Raises:
        ModelError: not one weight is stored quantized.
    """
    stored = _stored_types(source, released)
    if not stored:
        raise ModelError(
            f"{released.model} says that it is quantized ({released.name}) and has not one quantized layer; "
            f"its modules are {loaded.module_types}. Check how it was made and saved"
        )
    return replace(
        loaded,
        module_types=module_types(loaded.model, stored),
        quantization=in_plain_words(released.config | {"dequantized": True}),
    )


def _stored_types(source: Source, released: ReleasedFormat) -> dict[str, str]:
    """The types of a checkpoint's weights in float8, such as `F8_E4M3`, by their module's name.

    Raises:
        ModelError: one has no scale beside it; transformers would take its codes for the weights.
    """
    types = _tensor_types(source)
    codes = {name.removesuffix(".weight"): kind for name, kind in types.items() if kind.startswith("F8_")}
    bare = [name for name in codes if not any(f"{name}.{scale}" in types for scale in _FP8_SCALES)]
    if bare:
        raise ModelError(
            f"{released.model}: {bare[0]} is stored in float8 and has no scale ({' or '.join(_FP8_SCALES)}), as "
            f"{len(bare)} of {len(codes)} layers. Check that the files are complete and belong together"
        )
    return codes


def _tensor_types(source: Source) -> dict[str, str]:
    """The types of all tensors in a checkpoint's files by their names, from the files' headers."""
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - only for a rare format
    from safetensors import safe_open  # noqa: PLC0415 - likewise

    folder = local_path(source.model) or Path(
        snapshot_download(source.model, revision=source.revision, local_files_only=True)
    )
    found: dict[str, str] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= {name: str(file.get_slice(name).get_dtype()) for name in file.keys()}  # noqa: SIM118
    return found


def _quantization_config(source: Source) -> _Config | None:
    from transformers import PreTrainedConfig  # noqa: PLC0415 - heavy

    name, arguments = file_arguments(source)
    config, _ = PreTrainedConfig.get_config_dict(name, revision=arguments["revision"])
    nested = config.get("text_config") or {}
    found: _Config | None = config.get("quantization_config") or nested.get("quantization_config")
    return found


def _method_name(config: _Config) -> str:
    """As transformers reads it: checkpoints of early bitsandbytes do not name their method."""
    if config.get("load_in_8bit") or config.get("load_in_4bit"):
        return "bitsandbytes"
    return str(config.get("quant_method"))


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _decompress(model: Any) -> None:
    """Let compressed-tensors unpack its weights now, as it does in the first forward pass otherwise."""
    if hasattr(model, "ct_decompress_hook"):
        model.hf_quantizer.compressor.decompress_model(model)


def _bitsandbytes(config: _Config) -> str:
    return "bitsandbytes int8" if config.get("load_in_8bit") else f"bitsandbytes {config.get('bnb_4bit_quant_type')}"


def _torchao(config: _Config) -> str:
    """From the name of torchao's configuration class: `Int8WeightOnlyConfig` is int8 weight-only."""
    kind = (config.get("quant_type") or {}).get("default") or {}
    words = re.findall(r"[A-Z][a-z]*\d*", str(kind.get("_type")).removesuffix("Config"))
    return f"torchao {' '.join(words).lower()}".replace("weight only", "weight-only").replace("c act", "c-act")


def _compressed_tensors(config: _Config) -> str:
    groups = (config.get("config_groups") or {}).values()
    return f"compressed-tensors {' and '.join(dict.fromkeys(map(scheme_name, groups)))}"


def _by_bits(config: _Config) -> str:
    return f"{config['quant_method']} {config.get('bits', config.get('w_bit'))} bit"


_METHODS = {
    "bitsandbytes": _Method(_bitsandbytes, ("bitsandbytes",)),
    "torchao": _Method(_torchao, ("torchao",)),
    "compressed-tensors": _Method(_compressed_tensors, ("compressed-tensors",)),
    "gptq": _Method(_by_bits, ("gptqmodel", "optimum")),
    "awq": _Method(_by_bits, ("gptqmodel",)),
    "fp8": _Method(lambda _: "fp8", ()),
    "fbgemm_fp8": _Method(lambda _: "fbgemm fp8", ("fbgemm-gpu-genai",), gpu=True),
}
"""By the `quant_method` of a checkpoint's `quantization_config`."""
