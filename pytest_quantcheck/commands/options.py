"""The options of commands: pytest's without `quantcheck-`, from the same table, and a few more."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_quantcheck.bit_widths import SPELLINGS
from pytest_quantcheck.errors import SettingsError
from pytest_quantcheck.options.table import OPTIONS, Option, late

if TYPE_CHECKING:
    from pytest_quantcheck.options import Settings

_TABLE = {option.name: option for option in OPTIONS}


def _pytest_options(*names: str) -> tuple[Option, ...]:
    return tuple(_TABLE[name] for name in names)


MEASURE: tuple[Option, ...] = (
    _TABLE["model"]._replace(summary="model to measure: hub id, directory, .gguf file or 'builtin'"),
    _TABLE["revision"],
    _TABLE["baseline"]._replace(name="out", summary="write into this directory, one directory for each prompt set"),
    Option("force", "replace a measurement that is there", kind="flag"),
    _TABLE["baseline"]._replace(
        name="reference",
        summary="measure a candidate against the reference that is stored in this directory, not the reference itself",
    ),
    _TABLE["bits"]._replace(
        summary=f"the candidate is the model at one of these bit-widths: {', '.join(SPELLINGS)}",
        default=None,
    ),
    _TABLE["candidate"]._replace(
        summary="the candidate is this quantized checkpoint: a directory, a .gguf file or a hub id", kind="text"
    ),
    Option(
        "shard",
        "measure one shard of each prompt set alone, such as 3/8; `merge` makes the whole of all",
        None,
        late("values.parse_shard"),
        "K/N",
    ),
    *_pytest_options(
        "dtype",
        "prompts",
        "columns",
        "template",
        "samples",
        "seed",
        "layers",
        "readout",
        "attribution",
        "attribution-samples",
        "attribution-tokens",
        "attribution-memory",
        "continuation",
        "redundancy-neurons",
        "allow-difference",
        "cache",
        "device",
        "max-memory",
        "batch-size",
        "shard-size",
        "engine",
        "engine-address",
        "workers",
        "gpus-per-worker",
        "cpus-per-worker",
        "worker-timeout",
        "neurons",
        "trust-remote-code",
        "allow-pickle",
    ),
)
MERGE: tuple[Option, ...] = (
    _TABLE["baseline"]._replace(name="out", summary="write into this directory, one directory for each prompt set"),
    Option("force", "replace a measurement that is there", kind="flag"),
)
DEQUANTIZE: tuple[Option, ...] = (
    _TABLE["baseline"]._replace(name="out", summary="write the checkpoint as this directory, which is new or empty"),
    _TABLE["dtype"]._replace(
        summary="float format of its weights: fp32, which adds no rounding, bf16 or fp16", default="fp32"
    ),
)
COMPARE = _pytest_options("profile", "fail", "allow-unmeasured", "report")

_ACTIONS = {"text": "store", "list": "append", "flag": "store_true"}
_SPELLINGS = {option.flag: f"--{option.name}" for option in (*MEASURE, *COMPARE)}
_SPELLINGS |= {"--quantcheck-baseline": "--reference", "--quantcheck-update-baseline": "`measure`"}


def spelled(text: str) -> str:
    """Spell pytest's options in a text as these commands do; others stay.

    >>> spelled("--quantcheck-samples=9 and --quantcheck-report, not --quantcheck-controls")
    '--samples=9 and --report, not --quantcheck-controls'
    """
    return re.sub(r"--quantcheck-[a-z]+(-[a-z]+)*", lambda match: _SPELLINGS.get(match[0], match[0]), text)


def add_options(parser: argparse.ArgumentParser, options: Sequence[Option]) -> None:
    """Add these options to a parser, each without `quantcheck-`."""
    for option in options:
        shown: dict[str, Any] = {} if option.kind == "flag" else {"metavar": option.metavar or option.field.upper()}
        parser.add_argument(
            f"--{option.name}",
            dest=option.field,
            action=_ACTIONS[option.kind],
            default=None,
            help=spelled(option.help),
            **shown,
        )


def read(arguments: argparse.Namespace, options: Sequence[Option]) -> dict[str, Any]:
    """Each option's value by its field: from the command line, else its default.

    Raises `SettingsError` for a value that cannot be used, and names the option.
    """
    return {option.field: _value(option, getattr(arguments, option.field)) for option in options}


def to_settings(given: Mapping[str, Any]) -> Settings:
    """Make settings from values by field, with pytest's defaults for the rest.

    Raises `SettingsError` for values that do not go together.
    """
    from pytest_quantcheck.options.settings import Settings, check_together  # noqa: PLC0415 - not for --help

    values = {option.field: option.value() for option in OPTIONS}
    settings = Settings(**values | {field: value for field, value in given.items() if field in values})
    check_together(settings)
    return settings


def _value(option: Option, raw: Any) -> Any:
    try:
        return option.value(raw)
    except ValueError as problem:
        raise SettingsError(f"--{option.name}: {problem}") from None
