"""Checks of a model's files that need no weights: configuration, tokenizer and the headers of the weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.models.checksums import file_size
from pytest_quantcheck.models.pretrained import (
    check_folder,
    file_arguments,
    read_tokenizer,
    silence_libraries,
    translate_load_errors,
)
from pytest_quantcheck.models.source import Source, local_path

_FEWEST_TOKENS = 16
_AGAIN = "Check that the files are complete and belong together."
_INDEX = "model.safetensors.index.json"


def check_config(source: Source, load_as: str) -> None:
    """Check that transformers can read a plain checkpoint's configuration.

    Raises:
        ModelError: there is none, it is damaged, or of an unknown architecture.
    """
    from transformers import AutoConfig  # noqa: PLC0415 - heavy

    check_folder(source)
    name, arguments = file_arguments(source)
    with translate_load_errors(source, load_as), silence_libraries():
        AutoConfig.from_pretrained(name, **arguments)


def check_tokenizer(source: Source, load_as: str) -> None:
    """Check that a plain checkpoint has a tokenizer.

    Raises:
        ModelError: it has none or a damaged one. Some classes make an empty tokenizer where the files are missing.
    """
    with translate_load_errors(source, load_as), silence_libraries():
        n_tokens = len(read_tokenizer(source).get_vocab())
    if n_tokens < _FEWEST_TOKENS:
        raise ModelError(
            f"{_name(source)}: expected a tokenizer, found {n_tokens} tokens, as without its files. {_AGAIN}"
        )


def check_weights(source: Source) -> None:
    """Check the headers of a local checkpoint's safetensors files; no weight is read.

    Pickled weights, where they are allowed, are not looked at.

    Raises:
        ModelError: a file is missing, its header is damaged, it is longer or shorter than its header says, or it lacks
            a tensor that the index names.
    """
    if is_pickled(source):
        return
    folder = _folder(source)
    entry = _entry(folder)
    if not (folder / entry).exists():
        raise ModelError(
            f"{_name(source)}: expected weights in model.safetensors or {_INDEX}, found neither. If its weights "
            "are pickled (pytorch_model.bin) and you trust them: --quantcheck-allow-pickle."
        )
    for name, tensors in _shards(folder, entry).items():
        found = set(_tensors(folder / name))
        if lacking := sorted(tensors - found):
            raise ModelError(f"{folder / name} lacks {lacking[0]}, which {entry} says is in it. {_AGAIN}")


def is_pickled(source: Source) -> bool:
    """Return whether a local checkpoint's weights are pickled, and that is allowed."""
    folder = _folder(source)
    safe = any((folder / name).exists() for name in ("model.safetensors", _INDEX))
    return source.allow_pickle and not safe and any(folder.glob("pytorch_model*.bin*"))


def _folder(source: Source) -> Path:
    folder = local_path(source.model)
    assert folder is not None  # of a hub id there is nothing here to check
    return folder


def check_index(source: Source) -> None:
    """Check that a checkpoint's weights lie beside its configuration: others would be in no hash.

    Raises:
        ModelError: the configuration or the index names a file elsewhere.
    """
    folder = local_path(source.model)
    if folder is not None and (folder / (entry := _entry(folder))).exists():
        _shards(folder, entry)


def _name(source: Source) -> str:
    return source.origin or source.model


def _entry(folder: Path) -> str:
    """Return the file that transformers begins with."""
    named = _read_object(folder / "config.json").get("transformers_weights")
    if isinstance(named, str):
        return _beside(folder / "config.json", named)
    return "model.safetensors" if (folder / "model.safetensors").exists() else _INDEX


def _shards(folder: Path, entry: str) -> dict[str, set[str]]:
    """Return the names of the tensors that each file must hold."""
    if not entry.endswith(".json"):
        return {entry: set()}
    shards: dict[str, set[str]] = {}
    for tensor, name in _weight_map(folder / entry):
        shards.setdefault(_beside(folder / entry, name), set()).add(tensor)
    return dict(sorted(shards.items()))


def _beside(path: Path, name: str) -> str:
    if Path(name).name != name:
        raise ModelError(f"{path}: expected the name of a file beside it, got {name!r}. {_AGAIN}")
    return name


def _weight_map(index: Path) -> Iterator[tuple[str, str]]:
    found = _read_object(index).get("weight_map")
    if not (isinstance(found, dict) and found and all(isinstance(name, str) for name in found.values())):
        raise ModelError(f"{index}: expected a weight_map with the file of each tensor, found none. {_AGAIN}")
    yield from found.items()


def _tensors(path: Path) -> list[str]:
    """Return the names of a file's tensors; the library compares the header with the file's size."""
    from safetensors import safe_open  # noqa: PLC0415 - heavy

    if file_size(path) is None:
        raise ModelError(f"{path}: expected a file of weights, found none. {_AGAIN}")
    try:
        with safe_open(path, framework="np") as file:
            return list(file.keys())
    except Exception as error:  # the library's own class, and the system's
        raise ModelError(f"{path} is damaged: {' '.join(str(error).split())[:200]}. {_AGAIN}") from error


def _read_object(path: Path) -> dict[str, Any]:
    """Return a JSON file's object; an empty one where it cannot be read."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
