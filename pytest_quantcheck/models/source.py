"""What a user named as a model, and where its files are."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.models import builtin
from pytest_quantcheck.models.hashing import unreadable
from pytest_quantcheck.user_files import CONFIG_BYTES, read_file, stat_file


@dataclass(frozen=True)
class Source:
    """Where the weights come from, as the user named it.

    `model`: hub id, directory, path of a `.gguf` file, or `builtin`. The other fields are the options of the same name.
    """

    model: str
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    neurons: str | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False
    attribution_memory: int | None = None
    max_memory: tuple[tuple[str, int], ...] = ()


def local_path(model: str) -> Path | None:
    """Find the directory or file of a model name; None for a hub id.

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


def fetch(source: Source, names: Iterable[str]) -> Path:
    """Fetch files of a hub id by names or patterns; return the folder that holds them.

    Raises:
        ModelError: they cannot be fetched.
    """
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - heavy

    try:
        return Path(snapshot_download(source.model, revision=source.revision, allow_patterns=list(names)))
    except Exception as error:  # a network fails in many ways
        raise ModelError(
            f"{source.model} cannot be fetched: {type(error).__name__}: "
            f"{' '.join(str(error).split())[:300].rstrip('.')}. Check the hub id and its revision, the network and "
            "HF_HUB_OFFLINE."
        ) from error


def is_offline() -> bool:
    """Say whether nothing may be fetched from a hub (`HF_HUB_OFFLINE`)."""
    from huggingface_hub import constants  # noqa: PLC0415 - heavy

    return bool(constants.HF_HUB_OFFLINE)


def declared(model: str) -> dict[str, Any]:
    """Read a local `config.json`, to look at before anything else is.

    Empty for a hub id, and if it cannot be read: resolving the files reports the error.

    Raises:
        ModelError: the name has the form of a path, and nothing is there.
    """
    root = local_path(model)
    try:
        config = json.loads(read_file(root / "config.json", CONFIG_BYTES)) if root else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def quantization_of(config: Mapping[str, Any]) -> Any:
    """Find the `quantization_config` of a configuration or its text part."""
    nested = config.get("text_config")
    return config.get("quantization_config") or (
        nested.get("quantization_config") if isinstance(nested, dict) else None
    )


def quantized_already(source: Source) -> ModelError:
    """Make the error for a reference that is quantized."""
    return ModelError(
        f"{source.model} is quantized already, and a reference is at full precision: name the model that it was made "
        "from, and gate this one with --quantcheck-candidate"
    )
