"""GGUF files, as the reference or as a candidate: their weights dequantized into a plain model.

transformers has no kernels for most of these files, and llama.cpp has no gradients: what runs here are the very
numbers that the file holds, in float32 unless a float format is asked for. Rounding them to bfloat16 would add an
error that whoever serves the file does not see.
"""

from __future__ import annotations

import importlib.metadata
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import nn

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.models.float_formats import DTYPES
from pytest_quantcheck.models.formats.gguf_header import Header, read_header
from pytest_quantcheck.models.formats.quantized_layers import module_types
from pytest_quantcheck.models.loading import LoadedModel, load
from pytest_quantcheck.models.pretrained import pretrained, silence_libraries, translate_load_errors
from pytest_quantcheck.models.source import Source, local_path
from pytest_quantcheck.records import REFERENCE, RELEASED

_FREQUENCIES = "rope_freqs.weight"


def quantized_header(source: Source) -> Header:
    """The header of a GGUF file that is a candidate.

    Raises:
        ModelError: the file cannot be read or is not whole, or not one of its tensors is quantized.
    """
    header = read_header(_path(source))
    if header.format is None:
        raise ModelError(
            f"{source.model} has not one quantized tensor; its tensors are {_counts(header.weights)}. "
            "Give the quantized file; this one may be the reference, --quantcheck-model"
        )
    return header


def load_gguf(source: Source) -> LoadedModel:
    """Load a GGUF file as the candidate that it is: quantized by its maker, dequantized to run.

    Its `module_types` say how the file holds each module's weight: `Linear[Q4_1]`.

    Raises:
        ModelError: the file cannot be read, or not one of its tensors is quantized.
    """
    header = quantized_header(source)
    assert header.format is not None
    with tempfile.TemporaryDirectory(prefix="quantcheck-") as folder:
        loaded = load(unpack_gguf(source, Path(folder), RELEASED))
    return replace(
        loaded,
        bits=RELEASED,
        format=header.format,
        module_types=module_types(loaded.model, _stored_types(loaded.model, header)),
        quantization=_quantization(header),
        libraries=loaded.libraries | {"gguf": importlib.metadata.version("gguf")},
    )


def unpack_gguf(source: Source, folder: Path, bits: str = REFERENCE) -> Source:
    """Dequantize a GGUF file into a plain checkpoint in a folder, and say where that is.

    transformers marks what it reads from such a file as quantized, which can neither be saved nor quantized again.
    `bits` is for messages.

    Raises:
        ModelError: the file does not exist, is not whole, or holds something that transformers leaves out.
    """
    path = _path(source)
    header = read_header(path)
    with translate_load_errors(source, bits), silence_libraries():
        from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415 - heavy, and not quiet

        dtype = DTYPES.get(source.dtype, torch.float32)
        read = pretrained(str(path.parent), gguf_file=path.name, dtype=dtype, **_dequantized())
        vars(read.config).pop("quantization_config", None)
        _heed_frequencies(read.config, header, path)
        plain = AutoModelForCausalLM.from_config(read.config, dtype=read.dtype)  # not .to(): positions stay float32
        plain.load_state_dict(read.state_dict())
        _refuse_leftovers(plain, header, path)
        plain.save_pretrained(folder)
        AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name).save_pretrained(folder)
        _drop_foreign_tokens(folder / "tokenizer.json", header.metadata["tokenizer.ggml.tokens"])
    return replace(source, model=str(folder), origin=source.model)


def _path(source: Source) -> Path:
    path = local_path(source.model)
    assert path is not None
    return path


def _dequantized() -> dict[str, Any]:
    """The argument that has weights dequantized where transformers has kernels for them; older versions never do."""
    import transformers  # noqa: PLC0415 - heavy

    known = hasattr(transformers, "GgufConfig")
    return {"quantization_config": transformers.GgufConfig(dequantize=True)} if known else {}


def _heed_frequencies(config: Any, header: Header, path: Path) -> None:
    """Divide the rotary frequencies by what the file says, as llama.cpp does; transformers would not.

    That is how Llama 3 stretches its context. The same division is a part of LongRoPE, which can be saved.
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
    """Stop where the model is not all that the file says: transformers drops silently what it does not know."""
    held = sum(tensor.weights for name, tensor in header.tensors.items() if name != _FREQUENCIES)
    running = sum(parameter.numel() for parameter in model.parameters())
    scaling = header.metadata.get(f"{header.architecture}.rope.scaling.type", "none")
    left = f"{held - running:,} of its {held:,} weights" if held != running else f"its rope scaling ({scaling})"
    if held != running or scaling != "none":
        raise ModelError(
            f"{path}: transformers {importlib.metadata.version('transformers')} leaves out {left}, so the model would "
            "be another than the one that is served; measure the checkpoint that it was made from, or another format"
        )


def _drop_foreign_tokens(tokenizer: Path, n_tokens: int) -> None:
    """Take out the `<|endoftext|>` that transformers adds where a byte-level vocabulary lacks it.

    Its number lies behind the last row of the embedding, and it would pass for another vocabulary.
    """
    described = json.loads(tokenizer.read_bytes())
    described["added_tokens"] = [token for token in described["added_tokens"] if token["id"] < n_tokens]
    tokenizer.write_text(json.dumps(described, ensure_ascii=False), encoding="utf-8")


def _stored_types(model: nn.Module, header: Header) -> dict[str, str]:
    """`Q4_1` for each module whose weight the file holds quantized, by the module's name."""
    architecture = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == header.architecture)
    modules = [name for name, _ in model.named_modules()]
    names = gguf.get_tensor_name_map(architecture, len(modules))  # more blocks than there are do no harm
    tensors = {module: header.tensors.get(f"{names.get_name(module)}.weight") for module in modules}
    return {module: tensor.type for module, tensor in tensors.items() if tensor and tensor.quantized}


def _quantization(header: Header) -> dict[str, Any]:
    """What goes into the measurement: who quantized, to what, and how many weights are of which type."""
    known = {kind.value: kind.name for kind in gguf.LlamaFileType}
    return {
        "quant_method": "gguf",
        "file_type": known.get(header.metadata.get("general.file_type"), "not stated"),
        "weights": _counts(header.weights),
        "pre_tokenizer": str(header.metadata.get("tokenizer.ggml.pre", "not stated")),
    }


def _counts(weights: dict[str, int]) -> str:
    return ", ".join(f"{kind} ({count:,} weights)" for kind, count in weights.items())
