"""Where a model's files are, and hashes of their content."""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.models import builtin
from pytest_quantcheck.models.checksums import (
    SUMS,
    describe_coverage,
    read_sums,
    require_regular,
    sha256_of,
    unreadable,
    verify_sums,
)
from pytest_quantcheck.user_files import CONFIG_BYTES, read_file, stat_file


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
        folder = snapshot_download(source.model, revision=source.revision, allow_patterns=[*_content(source), SUMS])
    except Exception as error:  # a network fails in many ways
        raise ModelError(
            f"{source.model} cannot be fetched: {type(error).__name__}: "
            f"{' '.join(str(error).split())[:300].rstrip('.')}. Check the hub id and its revision, the network and "
            "HF_HUB_OFFLINE."
        ) from error
    return replace(source, model=folder, origin=source.model)


def is_offline() -> bool:
    """Return whether nothing may be fetched from a hub (`HF_HUB_OFFLINE`)."""
    from huggingface_hub import constants  # noqa: PLC0415 - heavy

    return bool(constants.HF_HUB_OFFLINE)


def content_hash(source: Source) -> str | None:
    """Return the SHA-256 over names and bytes of a local model's files; None for a hub id.

    Raises:
        ModelError: a file cannot be read, or the model's own `SHA256SUMS` does not hold.
    """
    root = _root(source)
    if root is None:
        return None
    files = _content_files(root, source)
    verify(source)
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + bytes.fromhex(sha256_of(path)))
    return digest.hexdigest()


def verify(source: Source, most_bytes: float = math.inf) -> list[str] | None:
    """Verify a local model's files by the `SHA256SUMS` beside them.

    Without sums there is nothing to verify. Of a model that is one file, only that file; of a hub id, what was fetched.

    Returns:
        The names of files that were not read, as they would be more than `most_bytes`; None without sums.

    Raises:
        ModelError: a file differs from its hash or is absent, or the sums are malformed.
    """
    root = _root(source)
    if root is None or (sums := read_sums(_folder(root))) is None:
        return None
    if root.is_file():
        sums = {name: one for name, one in sums.items() if name == root.name}
    fetched = local_path(source.origin or source.model) is None
    return verify_sums(_folder(root), sums, whole=not fetched, most_bytes=most_bytes)


def check_regular(source: Source) -> None:
    """Check that a local model's files can be read, and end.

    Raises:
        ModelError: one is a pipe, a folder, or a link that leads nowhere.
    """
    if (root := _root(source)) is not None:
        for path in _content_files(root, source):
            require_regular(path)


def describe_files(source: Source) -> str:
    """Say the hash of the files and which of them checksums confirm."""
    root = _root(source)
    if root is None:
        return ""
    hashed, sums = f"the sha256 {content_hash(source)}", read_sums(_folder(root))
    if root.is_file():
        covers = "covers it, and it has the hash that it names" if root.name in (sums or ()) else "does not cover it"
        known = f"and no {SUMS} beside it says whether it was changed" if sums is None else f"{SUMS} beside it {covers}"
        return f"its file has {hashed}{',' if sums is None else ';'} {known}"
    if sums is None:
        return f"its files have {hashed}, and no {SUMS} beside them says whether they were changed"
    covers = describe_coverage([path.name for path in _content_files(root, source)], sums)
    return f"its files have {hashed}; {SUMS} beside them {covers}"


def _content_files(root: Path, source: Source) -> list[Path]:
    """Return the files that decide what a local model computes."""
    return [root] if root.is_file() else sorted({path for pattern in _content(source) for path in root.glob(pattern)})


def _folder(root: Path) -> Path:
    return root.parent if root.is_file() else root


def _root(source: Source) -> Path | None:
    """Return the path that was named, else where files were fetched to."""
    return local_path(source.origin or source.model) or local_path(source.model)


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
        raise unreadable(path, problem.strerror) from None
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


def refuse_quantized(source: Source) -> None:
    """Refuse a reference whose local `config.json` says that it is quantized.

    Raises:
        ModelError: it is, or the name has the form of a path, and nothing is there.
    """
    config = _declared(source.model)
    nested = config.get("text_config")
    if config.get("quantization_config") or (isinstance(nested, dict) and nested.get("quantization_config")):
        raise quantized_already(source)


def quantized_already(source: Source) -> ModelError:
    """Make the error for a reference that is quantized."""
    return ModelError(
        f"{source.origin or source.model} is quantized already, and a reference is at full precision: name the model "
        "that it was made from, and gate this one with --quantcheck-candidate"
    )


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
