"""GGUF files, as the reference or as a candidate: their weights are dequantized into a plain model.

transformers has no kernels for most of these files, and llama.cpp has no gradients. So the model computes with the
numbers that the file holds, in float32 unless another float format is asked for. Rounding them to bfloat16 would add
an error that does not occur where the file is served.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import nn

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.models.formats.format import Config, File, Format, Reader
from pytest_quantcheck.models.formats.gguf_header import ArrayLength, Header, read_header
from pytest_quantcheck.text import shortened

_FREQUENCIES = "rope_freqs.weight"

_TOKENS = {
    "bos_token_id": "bos_token_id",
    "eos_token_id": "eos_token_id",
    "padding_token_id": "pad_token_id",
    "unknown_token_id": "unk_token_id",
    "add_bos_token": "add_bos_token",
    "add_eos_token": "add_eos_token",
}
"""What a tokenizer calls them, by their names in the metadata."""

_FIELDS = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "expert_used_count": "num_experts_per_tok",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.sliding_window": "sliding_window",
    "rope.freq_base": "rope_parameters.rope_theta",
    "rope.scaling.factor": "rope_parameters.factor",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
"""Fields of a configuration by the metadata that hold the same number, behind the architecture's name."""

_SYNONYMS = {
    "expert_count": ("num_experts", "num_local_experts"),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps", "norm_eps"),
    "attention.layer_norm_epsilon": ("layer_norm_epsilon", "layer_norm_eps", "norm_epsilon", "norm_eps"),
}
"""The same of numbers that architectures call differently; the reference has one of the names."""


def _inspect(path: Path) -> Header:
    """Read the header of a file that is a candidate.

    Raises:
        ModelError: the file cannot be read or is not whole, or none of its tensors is quantized.
    """
    header = read_header(path)
    if header.format is None:
        raise ModelError(
            f"{path} has not one quantized tensor; its tensors are {_counts(header.weights)}. "
            "Give the quantized file; this one may be the reference, --quantcheck-model"
        )
    return header


def _unpack(path: Path, folder: Path, dtype: torch.dtype, read: Reader) -> None:
    """Dequantize a file into a plain checkpoint in a folder.

    transformers marks what it reads from such a file as quantized, which can neither be saved nor quantized again.

    Raises:
        ModelError: the file is not whole, transformers leaves out a part of it, or the folder cannot be written.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415 - heavy, and it prints

    header = read_header(path)
    model = read(str(path.parent), gguf_file=path.name, dtype=dtype, **_dequantize_argument())
    vars(model.config).pop("quantization_config", None)
    _apply_frequencies(model.config, header, path)
    plain = AutoModelForCausalLM.from_config(model.config, dtype=model.dtype)  # not .to(): positions stay float32
    plain.load_state_dict(model.state_dict())
    _refuse_leftovers(plain, header, path)
    tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    try:
        plain.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        _drop_foreign_tokens(folder / "tokenizer.json", header.metadata["tokenizer.ggml.tokens"])
    except Exception as error:  # each library has its own
        raise ModelError(
            f"{path}: what it is dequantized into cannot be written in {folder.parent}: {error}. Check the permissions "
            "and the free space there"
        ) from error


def _dequantize_argument() -> dict[str, Any]:
    """Make the argument that stops transformers from using its kernels; older versions have neither."""
    import transformers  # noqa: PLC0415 - heavy

    supported = hasattr(transformers, "GgufConfig")
    return {"quantization_config": transformers.GgufConfig(dequantize=True)} if supported else {}


def _apply_frequencies(config: Any, header: Header, path: Path) -> None:
    """Divide the rotary frequencies as the file says; llama.cpp does, transformers does not.

    Llama 3 stretches its context in this way. The same division is a part of LongRoPE, which can be saved.
    """
    if (tensor := header.tensors.get(_FREQUENCIES)) is None:
        return
    start = header.data_start + tensor.offset
    divisors = np.fromfile(path, np.dtype("<f4"), tensor.weights, offset=start).tolist()
    config.rope_parameters |= {
        "rope_type": "longrope",
        "short_factor": divisors,
        "long_factor": divisors,
        "factor": 1.0,
        "attention_factor": 1.0,
        "original_max_position_embeddings": config.max_position_embeddings,
    }


def _refuse_leftovers(model: nn.Module, header: Header, path: Path) -> None:
    """Refuse a file of which transformers drops something without a word."""
    held = sum(tensor.weights for name, tensor in header.tensors.items() if name != _FREQUENCIES)
    running = sum(parameter.numel() for parameter in model.parameters())
    scaling = header.metadata.get(f"{header.architecture}.rope.scaling.type", "none")
    taken = {
        f"{name}.{part}"
        for name, module in _modules_of(header, model)
        for part, _ in model.get_submodule(module).named_parameters(recurse=False)
    }
    foreign = header.tensors.keys() - taken - {_FREQUENCIES}
    named = f" ({shortened(sorted(foreign))})" if foreign else ""
    left = f"{held - running:,} of its {held:,} weights{named}" if held != running else f"its rope scaling ({scaling})"
    if held != running or scaling != "none":
        raise ModelError(
            f"{path}: transformers {importlib.metadata.version('transformers')} leaves out {left}, so the model would "
            "differ from the one that is served; measure the checkpoint that it was made from, or another format"
        )


def _drop_foreign_tokens(tokenizer: Path, n_tokens: int) -> None:
    """Remove the `<|endoftext|>` that transformers adds to a byte-level vocabulary without it.

    Its number lies behind the last row of the embedding, and would make the vocabulary differ from the reference's.
    """
    content = json.loads(tokenizer.read_bytes())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < n_tokens]
    tokenizer.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _stored_types(_types: Mapping[str, str], header: Header, model: nn.Module) -> dict[str, str]:
    """Find the types of quantized weights, such as `Q4_1`, by module name."""
    tensors = {module: header.tensors.get(f"{name}.weight") for name, module in _modules_of(header, model)}
    return {module: tensor.type for module, tensor in tensors.items() if tensor and tensor.quantized}


def _modules_of(header: Header, model: nn.Module) -> Iterator[tuple[str | None, str]]:
    """Yield each module's name in a GGUF file, and its own."""
    architecture = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == header.architecture)
    modules = [name for name, _ in model.named_modules()]
    names = gguf.get_tensor_name_map(architecture, len(modules))  # more blocks than there are do no harm
    yield from ((names.get_name(module), module) for module in modules)


def _sizes(header: Header) -> tuple[int, int]:
    tensors = header.tensors.values()
    return sum(tensor.size for tensor in tensors if tensor.quantized), sum(tensor.size for tensor in tensors)


def _served_fields(header: Header) -> dict[str, Any]:
    """Say in the words of a configuration what the metadata say; lists by block have none."""
    said = header.metadata
    keys = [*_FIELDS.items(), *((key, name) for key, names in _SYNONYMS.items() for name in names)]
    values = {f"config.{name}": said.get(f"{header.architecture}.{key}") for key, name in keys}
    values |= {f"tokenizer.{name}": said.get(f"tokenizer.ggml.{key}") for key, name in _TOKENS.items()}
    if not any(name.startswith("rope_") for name in header.tensors):  # Llama 3 and LongRoPE are said by a tensor
        scaling = said.get(f"{header.architecture}.rope.scaling.type", "none")
        values["config.rope_parameters.rope_type"] = "default" if scaling == "none" else scaling
    if values["tokenizer.pad_token_id"] == values["tokenizer.eos_token_id"]:
        values["tokenizer.pad_token_id"] = None
    stated = {name: value for name, value in values.items() if not isinstance(value, ArrayLength | None)}
    return stated | {"tokenizer.chat_template": said.get("tokenizer.chat_template")}


def _record(header: Header) -> Config:
    """Record file type, number of weights of each type, and pre-tokenizer."""
    file_types = {kind.value: kind.name for kind in gguf.LlamaFileType}
    return {
        "quant_method": "gguf",
        "file_type": file_types.get(header.metadata.get("general.file_type"), "not stated"),
        "weights": _counts(header.weights),
        "pre_tokenizer": str(header.metadata.get("tokenizer.ggml.pre", "not stated")),
    }


def _counts(weights: dict[str, int]) -> str:
    return ", ".join(f"{kind} ({count:,} weights)" for kind, count in weights.items())


GGUF = Format(
    describe=lambda header: str(header.format),
    file=File(".gguf", _inspect, _unpack, read_header, _sizes, _served_fields),
    packages=("gguf",),
    libraries=("gguf",),
    stored_types=_stored_types,
    record=_record,
)
