"""JSON files of a model: one object each, of bounded size and depth, with every key once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.user_files import CONFIG_BYTES, RepeatedKeyError, each_key_once, read_file

_DEEPEST = 100
"""Objects and lists within one another; those of a real configuration are five deep."""

_AGAIN = "fetch the model again"


def read_object(path: Path, most_bytes: int = CONFIG_BYTES) -> dict[str, Any]:
    """Read the object of a JSON file.

    Raises:
        ModelError: the file cannot be read, is too large or too deep, is not one JSON object, or names a key twice,
            of which some readers take the first value and others the last.
    """
    try:
        content = json.loads(read_file(path, most_bytes), object_pairs_hook=each_key_once)
    except OSError as problem:
        raise ModelError(f"{path} cannot be read: {problem.strerror}; {_AGAIN}") from None
    except RecursionError:
        raise _too_deep(path) from None
    except ValueError as problem:
        raise ModelError(f"{path} is damaged: expected a JSON object, {_reason(problem)}; {_AGAIN}") from None
    if _is_deeper(content, _DEEPEST):
        raise _too_deep(path)
    if not isinstance(content, dict):
        raise ModelError(f"{path} is damaged: expected a JSON object, found {_json_type(content)}; {_AGAIN}")
    return content


def require_object(path: Path, most_bytes: int) -> None:
    """Check that a file that may be large is one JSON object; nothing is kept of it.

    Raises:
        ModelError: it is not, or cannot be read.
    """
    try:
        msgspec.json.decode(read_file(path, most_bytes), type=dict[str, msgspec.Raw])
    except OSError as problem:
        raise ModelError(f"{path} cannot be read: {problem.strerror}; {_AGAIN}") from None
    except (ValueError, RecursionError) as problem:  # msgspec's own errors are ValueErrors
        raise ModelError(f"{path} is damaged: expected a JSON object ({problem}); {_AGAIN}") from None


def _too_deep(path: Path) -> ModelError:
    return ModelError(f"{path} is nested too deeply: expected a JSON object of at most {_DEEPEST} levels; {_AGAIN}")


def _reason(problem: ValueError) -> str:
    return str(problem) if isinstance(problem, RepeatedKeyError) else f"found text that is no JSON ({problem})"


def _json_type(value: Any) -> str:
    """Say what JSON calls a value that is no object."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return "an array" if isinstance(value, list) else "a string" if isinstance(value, str) else "a number"


def _is_deeper(value: Any, levels: int) -> bool:
    """Say whether objects and lists are nested on more levels."""
    layer = [value]
    for _ in range(levels + 1):
        layer = [
            inner
            for outer in layer
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not layer:
            return False
    return True
