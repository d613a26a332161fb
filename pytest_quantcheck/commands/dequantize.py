"""`dequantize`: a GGUF file as a plain checkpoint, for whatever needs a directory."""

import argparse
import shlex
import time
from pathlib import Path

from pytest_quantcheck.commands.options import DEQUANTIZE, read, to_settings
from pytest_quantcheck.commands.output import FINE, say
from pytest_quantcheck.commands.stored import size
from pytest_quantcheck.errors import ModelError, SettingsError
from pytest_quantcheck.libraries import ignore_library_warnings
from pytest_quantcheck.models.source import local_path
from pytest_quantcheck.options.values import PRECISIONS, parse_text
from pytest_quantcheck.run.local_models import LocalModels
from pytest_quantcheck.run.targets import resolve_targets
from pytest_quantcheck.storage import check_new, write_directory
from pytest_quantcheck.text import duration


def run(arguments: argparse.Namespace) -> int:
    """Write a GGUF file as a plain checkpoint.

    Raises:
        QuantcheckError: it cannot be done; whatever can be said before the weights are read is.
    """
    given = read(arguments, DEQUANTIZE)
    if given["out"] is None:
        raise SettingsError("--out is missing: add --out=DIR")
    began, out = time.monotonic(), Path(given["out"])
    check_new("--out", out)
    with ignore_library_warnings():
        target = resolve_targets(to_settings(given | {"model": _find(arguments.file)}), None).reference
        models = LocalModels()
        models.check(target)
        from pytest_quantcheck.models.released import unpacked  # noqa: PLC0415 - heavy

        with write_directory(out) as folder:
            dtype = PRECISIONS[unpacked(models.files(target), folder).config["dtype"]]
    took = duration(time.monotonic() - began)
    follow = f"pytest --quantcheck-only --quantcheck-model={shlex.quote(str(out))}"
    say([f"{out}: {arguments.file} in {dtype}, {size(out)}, written in {took}; next: {follow}"])
    return FINE


def _find(text: str) -> str:
    """Find the path of a GGUF file as the user named it; nothing is fetched."""
    try:
        name = parse_text(text)
    except ValueError as problem:
        raise SettingsError(f"FILE: {problem}") from None
    path = local_path(name)
    if path is None or path.is_dir() or path.suffix != ".gguf":
        raise ModelError(
            f"{name}: expected the path of a GGUF file (.gguf), found {'none' if path is None else 'something else'}; "
            "fetch a hub's file first; a checkpoint's directory can be gated as it is"
        )
    return name
