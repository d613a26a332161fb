"""A configuration against the headers of the weights: both must describe one model."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import torch

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.models.files import CHECK_THE_FILES, CONFIG, ModelFiles, Tensor
from pytest_quantcheck.models.json_objects import require_object
from pytest_quantcheck.models.layer_names import layers_around, renaming
from pytest_quantcheck.models.pretrained import auto_class, library_folder, read_config, refuse_differences
from pytest_quantcheck.models.source import quantization_of
from pytest_quantcheck.text import shortened
from pytest_quantcheck.user_files import VOCABULARY_BYTES

_COUNTS = (
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
)
"""Fields of a configuration that count something, where an architecture has them; some have a list by block."""

_OF_THE_WHOLE = {"num_hidden_layers", "vocab_size"}

_TORCH_DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
"""Types of tensors by the names of safetensors; others are read as bytes here."""

_EXPERT = re.compile(r"(.+\.experts)\.(\d+)\.(.+)")
"""A tensor of one expert: the experts of a block, its number, and what it is of that expert."""

_UNQUANTIZED = {"F16", "BF16", "F32", "F64"}


def check_configuration(files: ModelFiles, load_as: str) -> None:
    """Check that transformers knows the configuration, and other JSON files are whole.

    Raises:
        ModelError: a count is no positive number, a file is no JSON object, or the architecture is unknown or no causal
            language model.
    """
    for part in _parts(files.config):
        for name in _COUNTS:
            value = part.get(name)
            by_block = value if isinstance(value, list) and value and name not in _OF_THE_WHOLE else [value]
            if value is not None and not all(map(_is_count, by_block)):
                raise ModelError(
                    f"{files.folder / CONFIG}: expected a whole number above 0 as {name}, got "
                    f"{str(value)[:80]!r}. {CHECK_THE_FILES}"
                )
    if not files.source.trust_remote_code:
        for name in files.names:
            if name.endswith(".json") and not name.endswith(".index.json"):
                require_object(files.folder / name, VOCABULARY_BYTES)
    with library_folder(files, load_as) as folder:
        auto_class(read_config(folder, files))


def check_tensors(files: ModelFiles, load_as: str) -> None:
    """Compare the tensors that the configuration expects with those in the files.

    transformers loads tensors without content into a model without content, and says what is missing, left over or of
    another shape. Of a quantized model it is only checked that each part of the model has some tensor: how its weights
    are stored is for the format's own code to read.

    Raises:
        ModelError: names the tensors.
    """
    stored = files.tensors
    _check_size(files, stored)
    _check_experts(files, stored)
    if files.source.trust_remote_code:
        return  # their code may map names in ways of its own, when it loads them
    quantized = bool(quantization_of(files.config))
    if not quantized:
        _refuse_codes(files, stored)
    with library_folder(files, load_as) as folder:
        config = read_config(folder, files)
        kind = _class_of(_without_quantization(config))
        if not quantized:
            _, report = _load_empty(kind, config, stored)
            refuse_differences(files.name, report)
            return
        with suppress(RuntimeError):  # packed weights that are fused on loading cannot be without content
            model, report = _load_empty(kind, config, stored)
            if missing := sorted(_without_any(report["missing_keys"], stored, renaming(model))):
                raise ModelError(
                    f"{files.name}: the files lack {shortened(missing)}, which {CONFIG} expects. {CHECK_THE_FILES}"
                )


def _without_quantization(config: Any) -> Any:
    """Remove the quantization of a configuration."""
    for part in filter(None, (config, getattr(config, "text_config", None))):
        if hasattr(part, "quantization_config"):
            del part.quantization_config
    return config


def _class_of(config: Any) -> Any:
    """Find the class of a configuration's model, once one could be built."""
    with torch.device("meta"):
        return type(auto_class(config).from_config(config))


def _load_empty(kind: Any, config: Any, stored: Mapping[str, Tensor]) -> tuple[Any, Mapping[str, Any]]:
    """Load tensors of these shapes, without content; what transformers says of it."""
    tensors = {
        name: torch.empty(tensor.shape, dtype=_TORCH_DTYPES.get(tensor.dtype, torch.uint8), device="meta")
        for name, tensor in stored.items()
    }
    loaded: tuple[Any, Mapping[str, Any]] = kind.from_pretrained(
        None,
        config=config,
        state_dict=tensors,
        device_map={"": "meta"},
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    return loaded


def _check_size(files: ModelFiles, stored: Mapping[str, Tensor]) -> None:
    """Refuse a configuration of more than the files hold."""
    blocks = {index for name in stored if (index := next((part for part in name.split(".") if part.isdecimal()), None))}
    rows = max((max(tensor.shape, default=0) for tensor in stored.values()), default=0)
    for part in _parts(files.config):
        if blocks and (declared := part.get("num_hidden_layers") or 0) > len(blocks):
            raise ModelError(
                f"{files.folder / CONFIG} says num_hidden_layers {declared:,}, and the weights have {len(blocks):,} "
                f"blocks. {CHECK_THE_FILES}"
            )
        if (declared := part.get("vocab_size") or 0) > rows:
            raise ModelError(
                f"{files.folder / CONFIG} says vocab_size {declared:,}, and no tensor has more than {rows:,} rows. "
                f"{CHECK_THE_FILES}"
            )


def _check_experts(files: ModelFiles, stored: Mapping[str, Tensor]) -> None:
    """Refuse experts of a block that hold other tensors than most: they become one, and torch would say so."""
    numbers: defaultdict[str, set[str]] = defaultdict(set)
    alike: defaultdict[tuple[str, str], dict[str, tuple[int, ...]]] = defaultdict(dict)
    for match in filter(None, map(_EXPERT.fullmatch, stored)):
        experts, number, rest = match.groups()
        numbers[experts].add(number)
        alike[experts, rest][number] = stored[match[0]].shape
    for (experts, rest), shapes in alike.items():
        lacking = sorted(numbers[experts] - shapes.keys())
        if 0 < len(lacking) <= len(shapes):
            missing = shortened([f"{experts}.{number}.{rest}" for number in lacking])
            raise ModelError(f"{files.name}: the files lack {missing}, which other experts have. {CHECK_THE_FILES}")
        (usual, _), *_ = Counter(shapes.values()).most_common()
        if odd := next((number for number, shape in shapes.items() if shape != usual), None):
            raise ModelError(
                f"{files.name}: {experts}.{odd}.{rest} is of shape {shapes[odd]}, and of other experts {usual}. "
                f"{CHECK_THE_FILES}"
            )


def _refuse_codes(files: ModelFiles, stored: Mapping[str, Tensor]) -> None:
    """Refuse weights that are codes of a quantized model: without its configuration they would be read as numbers."""
    codes = sorted(
        name for name, tensor in stored.items() if name.endswith("weight") and tensor.dtype not in _UNQUANTIZED
    )
    if codes:
        raise ModelError(
            f"{files.name}: expected weights of {', '.join(sorted(_UNQUANTIZED))}, found {stored[codes[0]].dtype} in "
            f"{shortened(codes)}: a quantized model whose config.json lacks its quantization_config"
        )


def _without_any(missing: Iterable[str], stored: Mapping[str, Tensor], rename: Callable[[str], str]) -> Iterator[str]:
    """Yield the missing parameters of which the files hold nothing."""
    held = {rename(layer) for name in stored for layer in layers_around(name)}
    yield from (name for name in missing if held.isdisjoint((name, name.rpartition(".")[0])))


def _parts(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield a configuration and its text part, where it has one."""
    yield config
    if isinstance(nested := config.get("text_config"), dict):
        yield nested


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
