"""Where a model's files are, and hashes of their content."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.models import builtin
from pytest_quantcheck.user_files import CONFIG_BYTES, SUMS_BYTES, read_file, stat_file


@dataclass(frozen=True)
class Source:
    """Where the weights come from, as the user named it.

    `model`: hub id, directory, path of a `.gguf` file, or `builtin`. `origin`: the file that a directory was unpacked
    from, or its hub id. The other fields are the options of the same name.
    """

    model: str
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    neurons: str | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False
    origin: str | None = None


SUMS = "SHA256SUMS"
"""The output of `sha256sum *`. If a model has this file, its other files must match it."""

_CONTENT = ("*.safetensors", "*.json", "*.model", "*.jinja", "*.txt")


def local_source(source: Source) -> Source:
    """Return the source with its files on this machine; those of a hub id are fetched.

    Raises:
        ModelError: the files cannot be fetched, or the path does not exist.
    """
    if local_path(source.model) is not None:
        return source
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - heavy

    try:
        folder = snapshot_download(source.model, revision=source.revision, allow_patterns=_content(source))
    except Exception as error:  # a network fails in many ways
        raise ModelError(
            f"{source.model} cannot be fetched: {type(error).__name__}: {' '.join(str(error).split())[:300]}. Check "
            "the hub id and its revision, the network and HF_HUB_OFFLINE."
        ) from error
    return replace(source, model=folder, origin=source.model)


def content_hash(source: Source) -> str | None:
    """Return the SHA-256 over names and bytes of a local model's files; None for a hub id.

    Raises:
        ModelError: a file differs from the one that the model's own `SHA256SUMS` names.
    """
    root = _root(source)
    if root is None:
        return None
    files = [root] if root.is_file() else sorted({path for pattern in _content(source) for path in root.glob(pattern)})
    sums = {path.name: _sum_now(path) for path in files}
    _check_sums(root, sums)
    digest = hashlib.sha256()
    for name, one in sums.items():
        digest.update(name.encode() + bytes.fromhex(one))
    return digest.hexdigest()


def describe_files(source: Source) -> str:
    """Return a sentence with the files' hash and whether checksums confirm it."""
    root = _root(source)
    if root is None:
        return ""
    checked = root.is_dir() and (root / SUMS).is_file()
    known = f"as {SUMS} beside them says" if checked else f"and no {SUMS} beside them says whether they were changed"
    return f"its files have the sha256 {content_hash(source)}, {known}"


def _root(source: Source) -> Path | None:
    """Return the path that was named, else where files were fetched to."""
    return local_path(source.origin or source.model) or local_path(source.model)


def _sum_now(path: Path) -> str:
    try:
        found = stat_file(path)
        return _sum(path, found.st_size, found.st_mtime_ns)
    except OSError as problem:
        raise _unreadable(path, problem) from None


def _unreadable(path: Path, problem: OSError) -> ModelError:
    return ModelError(f"cannot read {path}: {problem.strerror}; check the path, its links and its permissions")


@cache
def _sum(path: Path, _size: int, _changed: int) -> str:
    """Return a file's SHA-256; the file is read again only when it has changed."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_sums(root: Path, sums: dict[str, str]) -> None:
    if not os.path.lexists(root / SUMS):
        return
    try:
        text = read_file(root / SUMS, SUMS_BYTES).decode(errors="replace")
    except OSError as problem:
        raise _unreadable(root / SUMS, problem) from None
    for line in text.splitlines():
        expected, _, name = line.partition(" ")
        name = name.lstrip(" *").removeprefix("./")
        if name in sums and sums[name] != expected.lower():
            raise ModelError(
                f"{root / name} is not the file that {SUMS} beside it names: expected sha256 {expected}, got "
                f"{sums[name]}. The file was changed: fetch the model again, or update {SUMS} if you changed it."
            )


def local_path(model: str) -> Path | None:
    """Return the directory or file of a model name; None for a hub id.

    Raises:
        ModelError: the name has the form of a path, and nothing is there.
    """
    if model == "builtin":
        return builtin.DIRECTORY
    path = Path(model).expanduser()
    try:
        if path.is_dir() or (os.path.lexists(path) and stat_file(path)):
            return path
    except OSError as problem:
        raise _unreadable(path, problem) from None
    if model.endswith(".gguf") or model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise ModelError(f"{model}: no such file or directory; check the path (a hub id is ORGANISATION/NAME)")
    return None


def declared_dtype(model: str) -> str | None:
    """Return the float format that a local `config.json` declares, such as `bfloat16`.

    None if it declares none.

    Raises:
        ModelError: the name has the form of a path, and nothing is there.
    """
    config = _declared(model)
    declared = config.get("dtype") or config.get("torch_dtype")
    return declared if isinstance(declared, str) else None


def declared_layers(model: str) -> int | None:
    """Return the number of blocks that a local `config.json` declares.

    None if it declares none.

    Raises:
        ModelError: the name has the form of a path, and nothing is there.
    """
    declared = _declared(model).get("num_hidden_layers")
    return declared if isinstance(declared, int) else None


def _declared(model: str) -> dict[str, Any]:
    """Return a local `config.json`, empty if it cannot be read: loading the model reports the error."""
    root = local_path(model)
    try:
        config = json.loads(read_file(root / "config.json", CONFIG_BYTES)) if root else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def _content(source: Source) -> list[str]:
    """Return the patterns of the files that decide what a model computes."""
    return [*_CONTENT, *["*.bin"] * source.allow_pickle, *["*.py"] * source.trust_remote_code]


def vocabulary_hash(tokenizer: Any) -> str:
    """Return the SHA-256 over the tokenizer's tokens with their numbers.

    `[PAD97]` as token 97 is left out: GGUF files fill up a vocabulary that has fewer tokens than its model so.
    """
    digest = hashlib.sha256()
    for token, number in sorted(tokenizer.get_vocab().items(), key=lambda pair: (pair[1], pair[0])):
        if token != f"[PAD{number}]":
            digest.update(f"{number} {token}\n".encode())
    return digest.hexdigest()


def chat_template_hash(tokenizer: Any) -> str:
    """Return the SHA-256 of the tokenizer's chat template; of the text `None` without one."""
    return hashlib.sha256(str(getattr(tokenizer, "chat_template", None)).encode()).hexdigest()
