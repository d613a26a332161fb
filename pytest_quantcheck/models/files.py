"""A model's files, resolved once: the same list is checked, hashed, vouched for and loaded."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.models.hashing import require_regular, sha256_of
from pytest_quantcheck.models.json_objects import read_object
from pytest_quantcheck.models.source import Source, fetch, local_path
from pytest_quantcheck.user_files import INDEX_BYTES

SUMS = "SHA256SUMS"
"""Name of the file that `sha256sum * > SHA256SUMS` writes."""

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PICKLED = "pytorch_model.bin"
_PICKLED_INDEX = "pytorch_model.bin.index.json"
_ADAPTER = "adapter_config.json"
_TEMPLATES = "additional_chat_templates"

_SMALL = (
    "config.*.json",  # for one version of transformers, as `configuration_files` names them
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.*.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    f"{_TEMPLATES}/*.jinja",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "*.model",
    "*.tiktoken",
    "tekken.json",
)
"""What transformers reads beside the configuration and the weights, where it is there."""

_OF_OWN_CODE = ("*.py", "*.json", "*.jinja", "*.txt")
"""What code that a checkpoint brings may read."""

_WORTH_A_NOTE = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack", ".json", ".txt", ".jinja"}
"""Endings of files of which somebody may think that they were gated."""

CHECK_THE_FILES = "Check that the files are complete and belong together."
"""What to do about files that contradict one another."""


class Tensor(NamedTuple):
    """A tensor as the header of its file describes it.

    `dtype`: in the words of safetensors, such as `BF16` or `I8`.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        bits = re.search(r"\d+", self.dtype)
        return prod(self.shape) * int(bits[0] if bits else 8) // 8  # BOOL has no number


@dataclass(frozen=True, eq=False)
class ModelFiles:
    """Exactly the files from which one model is loaded.

    A library is given these files and no others, so what is checked, hashed and vouched for is what is read.
    """

    source: Source
    """What the user named, with the options of loading."""

    folder: Path
    """Where the files are, on this machine."""

    config: Mapping[str, Any]
    """The content of `config.json`; empty for a model that is one file."""

    entry: str
    """The file that a library begins with: the weights, or an index of them."""

    weights: tuple[str, ...]
    """Names of the files that hold weights, in the order in which they are loaded."""

    index: Mapping[str, str]
    """The file of each tensor as an index says it; empty without one."""

    names: tuple[str, ...]
    """Names of all files that are read, sorted, weights among them."""

    unread: tuple[str, ...] = ()
    """Names of files beside them that look like a part of the model and are not read."""

    fetched: bool = False
    """Whether they come from a hub, so that not all that belongs to the model need be here."""

    @property
    def name(self) -> str:
        """The model for messages, as the user named it."""
        return self.source.model

    @property
    def is_one_file(self) -> bool:
        """Whether the model is a single file, such as a GGUF file."""
        return not self.config

    @property
    def is_pickled(self) -> bool:
        """Whether the weights are pickled, so that they have no headers."""
        return any(name.endswith(".bin") for name in self.weights)

    @property
    def paths(self) -> list[Path]:
        """The files that are read."""
        return [self.folder / name for name in self.names]

    @property
    def content_hash(self) -> str:
        """SHA-256 over names and bytes of the files.

        Raises:
            ModelError: a file cannot be read.
        """
        digest = hashlib.sha256()
        for name in self.names:
            digest.update(name.encode() + bytes.fromhex(sha256_of(self.folder / name)))
        return digest.hexdigest()

    @cached_property
    def headers(self) -> Mapping[str, Mapping[str, Tensor]]:
        """The tensors of each file of weights, from the files' headers; none of pickled weights.

        Raises:
            ModelError: a header is damaged, or its file is longer or shorter than it says.
        """
        return {name: _read_header(self.folder / name) for name in self.weights if name.endswith(".safetensors")}

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The tensors of all files of weights, by name; errors as of `headers`."""
        return {name: tensor for held in self.headers.values() for name, tensor in held.items()}

    @cached_property
    def metadata(self) -> Mapping[str, str]:
        """What the files of weights say of themselves beside their tensors; errors as of `headers`."""
        metadata: dict[str, str] = {}
        for name in self.headers:
            with _opened(self.folder / name) as file:
                metadata |= file.metadata() or {}
        return metadata

    def read_tensor(self, name: str) -> Any:
        """Read one tensor, torch's, on the CPU; errors as of `headers`."""
        file_name = next(file_name for file_name, held in self.headers.items() if name in held)
        with _opened(self.folder / file_name) as file:
            return file.get_tensor(name)

    @contextmanager
    def linked(self) -> Iterator[Path]:
        """Yield a folder that holds these files, by links, and nothing else."""
        with TemporaryDirectory(prefix="quantcheck-") as place:
            folder = Path(place) / self.folder.resolve().name
            for name in self.names:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).symlink_to((self.folder / name).resolve())
            yield folder


def resolve_files(source: Source, folder: Path | None = None) -> ModelFiles:
    """Find the files from which a model is loaded; those of a hub id are fetched.

    Only names, the configuration and the index are looked at.

    Args:
        source: what the user named.
        folder: where its files are, if they are elsewhere: what a GGUF file was unpacked into.

    Raises:
        ModelError: there is no model, the configuration or the index is damaged, weights lie elsewhere, are pickled
            without permission, or are there twice, an adapter lies beside them, or a file cannot be read.
    """
    root = folder or local_path(source.model)
    fetched = root is None
    if root is None:
        root = fetch(source, ("*.json", *_small(source), SUMS))
    if root.is_file():
        require_regular(root)
        return ModelFiles(source, root.parent, {}, root.name, (root.name,), {}, (root.name,))
    config = _read_config(source, root)
    if fetched:
        commit = replace(source, revision=root.name)  # the folder's name; a branch may have moved meanwhile
        fetch(commit, _weights_to_fetch(source, root, config))
    entry = _find_entry(source, root, config)
    index = _read_index(root / entry) if entry.endswith(".json") else {}
    weights = tuple(sorted(set(index.values()))) or (entry,)
    names = tuple(sorted({CONFIG, entry, *weights, *_matching(root, _small(source))}))
    for name in names:
        require_regular(root / name)
    beside = sorted(path.name for path in root.iterdir() if path.name not in names and path.suffix in _WORTH_A_NOTE)
    if not fetched:
        _refuse_second_set(source, root, entry, beside)
    return ModelFiles(source, root, config, entry, weights, index, names, tuple(beside), fetched)


def _small(source: Source) -> tuple[str, ...]:
    return (*_SMALL, *_OF_OWN_CODE) if source.trust_remote_code else _SMALL


def _matching(root: Path, patterns: tuple[str, ...]) -> Iterator[str]:
    """Yield names of files; indexes have rules of their own."""
    folders = [root, root / _TEMPLATES] if (root / _TEMPLATES).is_dir() else [root]
    for path in (path for folder in folders for path in folder.iterdir()):
        name = path.relative_to(root).as_posix()
        if any(fnmatchcase(name, pattern) for pattern in patterns) and not name.endswith(".index.json"):
            yield name


def _read_config(source: Source, root: Path) -> dict[str, Any]:
    if os.path.lexists(root / _ADAPTER):
        raise ModelError(
            f"{source.model}: expected a whole model, found an adapter ({_ADAPTER}) beside it, and what is served "
            "depends on whether it is applied. Merge it into the weights and gate the result, or move it elsewhere."
        )
    if not os.path.lexists(root / CONFIG):
        raise ModelError(f"{source.model}: expected a checkpoint, found no {CONFIG}; check the path")
    config = read_object(root / CONFIG)
    if not config:
        raise ModelError(f"{root / CONFIG} is empty: expected a model's configuration; fetch the model again")
    return config


def _find_entry(source: Source, root: Path, config: Mapping[str, Any]) -> str:
    """Find the file that transformers begins with."""
    named = config.get("transformers_weights")
    if named is not None:
        if not (isinstance(named, str) and named.endswith((".safetensors", ".safetensors.index.json"))):
            raise ModelError(
                f"{root / CONFIG}: expected the name of a safetensors file or index as transformers_weights, got "
                f"{str(named)[:80]!r}. {CHECK_THE_FILES}"
            )
        return _beside(root / CONFIG, str(named))
    pickled = [_PICKLED, _PICKLED_INDEX] if source.allow_pickle else []
    for entry in [WEIGHTS, INDEX, *pickled]:
        if os.path.lexists(root / entry):
            return entry
    raise ModelError(
        f"{source.model}: expected weights in {WEIGHTS} or {INDEX}, found neither. If its weights are pickled "
        f"({_PICKLED}) and you trust them: --quantcheck-allow-pickle."
    )


def _weights_to_fetch(source: Source, root: Path, config: Mapping[str, Any]) -> Iterator[str]:
    """Yield names of a hub id's weights; its configuration and indexes are here already."""
    yield WEIGHTS
    if source.allow_pickle:
        yield "pytorch_model*.bin"
    for entry in (INDEX, config.get("transformers_weights")):
        if isinstance(entry, str):
            yield from {entry} if not entry.endswith(".json") else set(_read_index(root / entry).values())


def _read_index(path: Path) -> dict[str, str]:
    """Read the file of each tensor from an index; nothing where there is no such index."""
    if not os.path.lexists(path):
        return {}
    suffix = ".bin" if path.name == _PICKLED_INDEX else ".safetensors"
    content = read_object(path, INDEX_BYTES)
    weight_map = content.get("weight_map")
    if not (isinstance(weight_map, dict) and weight_map and all(isinstance(name, str) for name in weight_map.values())):
        raise ModelError(f"{path}: expected a weight_map with the file of each tensor, found none. {CHECK_THE_FILES}")
    for name in dict.fromkeys(weight_map.values()):
        if not _beside(path, name).endswith(suffix):
            raise ModelError(
                f"{path}: expected files that end in {suffix}, got {name!r}, which would be read as something else. "
                f"{CHECK_THE_FILES}"
            )
    if not isinstance(content.get("metadata"), dict):
        raise ModelError(f'{path}: expected an object as metadata, which transformers needs; add "metadata": {{}}')
    return {str(tensor): str(name) for tensor, name in weight_map.items()}


def _beside(path: Path, name: str) -> str:
    if Path(name).name != name:
        raise ModelError(f"{path}: expected the name of a file beside it, got {name!r}. {CHECK_THE_FILES}")
    return name


def _refuse_second_set(source: Source, root: Path, entry: str, beside: list[str]) -> None:
    """Refuse weights that another program may read in place of these."""
    for name in beside:
        if name == INDEX and set(_read_index(root / name).values()) == {entry}:
            continue  # it leads to the same file
        if name.endswith((".safetensors", ".safetensors.index.json")):
            raise ModelError(
                f"{source.model}: expected one set of weights, found {entry} and beside it {name}, and programs differ "
                "in which they read. Move the one that is not released elsewhere."
            )


def _read_header(path: Path) -> dict[str, Tensor]:
    """Read a file's tensors by name; the library compares the header with the file's size."""
    with _opened(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        return {name: Tensor(str(tensor.get_dtype()), tuple(tensor.get_shape())) for name, tensor in slices.items()}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a file of weights."""
    from safetensors import safe_open  # noqa: PLC0415 - heavy

    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except Exception as error:  # the library's own class, and the system's
        raise ModelError(f"{path} is damaged: {' '.join(str(error).split())[:200]}. {CHECK_THE_FILES}") from error
