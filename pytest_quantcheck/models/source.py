"""What a model is, whatever it is called: where its files are, and hashes of what is in them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.models import builtin


@dataclass(frozen=True)
class Source:
    """Where the weights come from, as the user named it.

    `model`: hub id, directory, path of a `.gguf` file, or `builtin`; `origin`: what a directory came from, the file it
    was unpacked from or the hub id; the rest are the options of that name.
    """

    model: str
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    neurons: str | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False
    origin: str | None = None

    @property
    def is_gguf(self) -> bool:
        """Whether the weights have to be unpacked from a GGUF file."""
        return self.model.endswith(".gguf")


SUMS = "SHA256SUMS"
"""The file that `sha256sum *` makes; where a model brings one, its files must be those."""

_CONTENT = ("*.safetensors", "*.json", "*.model", "*.jinja", "*.txt")


def local_source(source: Source) -> Source:
    """The source with its files on this machine: a hub id's are fetched, or found where they were fetched before.

    Raises:
        ModelError: they can be had from nowhere, or the path leads nowhere.
    """
    if local_path(source.model) is not None:
        return source
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - heavy

    try:
        folder = snapshot_download(source.model, revision=source.revision, allow_patterns=_content(source))
    except Exception as error:  # whatever a network can do
        raise ModelError(
            f"{source.model} cannot be fetched: {type(error).__name__}: {' '.join(str(error).split())[:300]}. Check "
            "the hub id and its revision, the network and HF_HUB_OFFLINE."
        ) from error
    return replace(source, model=folder, origin=source.model)


def content_hash(source: Source) -> str | None:
    """SHA-256 over the names and bytes of a local model's files, of the GGUF file if it is one; None for a hub id.

    Raises:
        ModelError: a file is not the one that the model's own `SHA256SUMS` names.
    """
    root = _root(source)
    if root is None:
        return None
    files = [root] if root.is_file() else sorted({path for pattern in _content(source) for path in root.glob(pattern)})
    sums = {path.name: _sum(path, path.stat().st_size, path.stat().st_mtime_ns) for path in files}
    _check_sums(root, sums)
    digest = hashlib.sha256()
    for name, one in sums.items():
        digest.update(name.encode() + bytes.fromhex(one))
    return digest.hexdigest()


def files_said(source: Source) -> str:
    """In a sentence, which files a model is, and whether anything says that they are those that were made."""
    root = _root(source)
    if root is None:
        return ""
    checked = root.is_dir() and (root / SUMS).is_file()
    known = f"as {SUMS} beside them says" if checked else f"and no {SUMS} beside them says whether they were changed"
    return f"its files have the sha256 {content_hash(source)}, {known}"


def _root(source: Source) -> Path | None:
    """Where the model's own files are: the directory or file that was named, else where they were fetched to."""
    return local_path(source.origin or source.model) or local_path(source.model)


@cache
def _sum(path: Path, _size: int, _changed: int) -> str:
    """A file's SHA-256, read again only when the file has changed."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_sums(root: Path, sums: dict[str, str]) -> None:
    if not (root / SUMS).is_file():
        return
    for line in (root / SUMS).read_text(errors="replace").splitlines():
        expected, _, name = line.partition(" ")
        name = name.lstrip(" *").removeprefix("./")
        if name in sums and sums[name] != expected.lower():
            raise ModelError(
                f"{root / name} is not the file that {SUMS} beside it names: expected sha256 {expected}, got "
                f"{sums[name]}. It was changed since: fetch the model again, or write {SUMS} anew if that was you."
            )


def local_path(model: str) -> Path | None:
    """The directory or file that a model name stands for; None for a hub id.

    Raises:
        ModelError: the name is a path by its form, and nothing is there.
    """
    if model == "builtin":
        return builtin.DIRECTORY
    path = Path(model).expanduser()
    if path.exists():
        return path
    if model.endswith(".gguf") or model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise ModelError(f"{model}: no such file or directory; check the path (a hub id is ORGANISATION/NAME)")
    return None


def declared_dtype(model: str) -> str | None:
    """The float format that a local checkpoint's `config.json` declares, such as `bfloat16`; None if it is silent.

    Raises:
        ModelError: the model's name is a path by its form, and nothing is there.
    """
    config = _declared(model)
    declared = config.get("dtype") or config.get("torch_dtype")
    return declared if isinstance(declared, str) else None


def declared_layers(model: str) -> int | None:
    """The number of blocks that a local checkpoint's `config.json` declares; None if it is silent.

    Raises:
        ModelError: the model's name is a path by its form, and nothing is there.
    """
    declared = _declared(model).get("num_hidden_layers")
    return declared if isinstance(declared, int) else None


def _declared(model: str) -> dict[str, Any]:
    """What a local checkpoint's `config.json` says; whoever loads the model says what is wrong with the file."""
    root = local_path(model)
    try:
        config = json.loads((root / "config.json").read_bytes()) if root else {}
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _content(source: Source) -> list[str]:
    """What the files are called that decide what a model does."""
    return [*_CONTENT, *["*.bin"] * source.allow_pickle, *["*.py"] * source.trust_remote_code]


def vocabulary_hash(tokenizer: Any) -> str:
    """SHA-256 over the tokenizer's tokens with their numbers.

    Not over `[PAD97]` as token 97: that is how GGUF files fill up a vocabulary that has fewer tokens than its model.
    """
    digest = hashlib.sha256()
    for token, number in sorted(tokenizer.get_vocab().items(), key=lambda pair: (pair[1], pair[0])):
        if token != f"[PAD{number}]":
            digest.update(f"{number} {token}\n".encode())
    return digest.hexdigest()


def chat_template_hash(tokenizer: Any) -> str:
    """SHA-256 over the text of the tokenizer's chat template; that of `None` where it has none."""
    return hashlib.sha256(str(getattr(tokenizer, "chat_template", None)).encode()).hexdigest()
