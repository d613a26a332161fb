"""What a model is, whatever it is called: where its files are, and hashes of what is in them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelError
from . import builtin


@dataclass(frozen=True)
class Source:
    """Where the weights come from, as the user named it.

    `model`: hub id, directory, path of a `.gguf` file, or `builtin`; `origin`: the file that a directory was unpacked
    from, if it was; the rest are the options of that name.
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


def content_hash(source: Source) -> str | None:
    """SHA-256 over the names and bytes of a local model's files, of the GGUF file if it is one; None for a hub id."""
    root = local_path(source.origin or source.model)
    if root is None:
        return None
    digest = hashlib.sha256()
    for path in [root] if root.is_file() else sorted(p for p in root.iterdir() if _is_content(p)):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


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
        raise ModelError(f"--quantcheck-model={model}: no such file or directory")
    return None


def declared_dtype(model: str) -> str | None:
    """The float format that a local checkpoint's `config.json` declares, such as `bfloat16`; None if it is silent.

    Raises:
        ModelError: the model's name is a path by its form, and nothing is there.
    """
    root = local_path(model)
    try:
        config = json.loads((root / "config.json").read_bytes()) if root else {}
    except (OSError, ValueError):  # whoever loads the model says what is wrong with it
        return None
    declared = (config.get("dtype") or config.get("torch_dtype")) if isinstance(config, dict) else None
    return declared if isinstance(declared, str) else None


def _is_content(path: Path) -> bool:
    return path.is_file() and path.suffix in {".safetensors", ".json", ".bin", ".model", ".jinja", ".txt"}


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
