"""The tensors of a released checkpoint in one file, read and written again: of safetensors, or GGUF."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

WEIGHTS = "model.safetensors"


def read_stored(release: Path) -> dict[str, torch.Tensor]:
    """The tensors by name, of a directory or a GGUF file; a quantized one of GGUF is its bytes, uint8 (rows, bytes)."""
    if release.is_dir():
        return load_file(release / WEIGHTS)
    return {one.name: torch.tensor(one.data) for one in gguf.GGUFReader(release).tensors}


def write_stored(release: Path, tensors: Mapping[str, torch.Tensor], name: str = WEIGHTS) -> None:
    """Replace the tensors of a directory or a GGUF file, and keep what else its file says.

    `name`: the file in a directory. Bytes of a GGUF file are of the one quantized type that it holds already.
    """
    if release.is_dir():
        with safe_open(release / WEIGHTS, "pt") as file:
            metadata = file.metadata()  # torchao keeps the kinds of its tensors there
        save_file(dict(tensors), release / name, metadata=metadata)
        return
    reader = gguf.GGUFReader(release)
    writer = gguf.GGUFWriter(None, _text(reader, gguf.Keys.General.ARCHITECTURE))
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != gguf.Keys.General.ARCHITECTURE:
            inner = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=inner)
    kind = _quantized_type(reader)
    for one, tensor in tensors.items():
        writer.add_tensor(one, tensor.numpy(), raw_dtype=kind if tensor.dtype == torch.uint8 else None)
    new = release.with_suffix(".new")
    writer.write_header_to_file(new)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    new.replace(release)


def quantized_type(release: Path) -> gguf.GGMLQuantizationType:
    """The type of the matrices of a GGUF file."""
    return _quantized_type(gguf.GGUFReader(release))


def _quantized_type(reader: Any) -> gguf.GGMLQuantizationType:
    return next(one.tensor_type for one in reader.tensors if one.data.dtype == "uint8")


def _text(reader: Any, key: str) -> str:
    return str(reader.fields[key].contents())
