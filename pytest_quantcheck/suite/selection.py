"""Whether a run collects the packaged suite, and which of its tests."""

from __future__ import annotations

import argparse
import re
from dataclasses import asdict, dataclass

import pytest

from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.options import OPTIONS
from pytest_quantcheck.suite.items import SUITE, is_suite, own_nodeid

_NAMES = re.compile(rf"\b{SUITE}\b|{'|'.join(METRICS)}", re.IGNORECASE)
"""What an expression of `-k` or `-m` contains that selects packaged tests."""


@dataclass(frozen=True)
class Selection:
    """What the command line says of the packaged suite.

    `collect`: whether it is collected at all; `node_ids`: the tests that are named, empty for all; `alone`: whether
    nothing else is collected.
    """

    collect: bool
    node_ids: tuple[str, ...]
    alone: bool


def take_selection(config: pytest.Config, *, only: bool) -> Selection:
    """Take the packaged suite's node ids out of the command line's arguments.

    Any option of ours asks for the suite. The ini file alone, `only` included, decides where the command line names no
    other tests: no path, no node id, and no expression that selects them.

    The selection is kept among the options, which xdist hands to its workers: they do not see what was taken.
    """
    if not hasattr(config.option, "quantcheck_selection"):
        node_ids = [argument for argument in config.args if is_suite(argument)]
        config.args = [argument for argument in config.args if argument not in node_ids]
        line = _command_line(config)
        expressions = [expression for expression in (line.keyword, line.markexpr) if expression]
        others = bool(expressions) or not all(map(is_suite, line.file_or_dir))
        only = bool(line.quantcheck_only) or (only and not others)
        option_given = any(config.getoption(option.dest) is not None for option in OPTIONS)
        collect = only or bool(node_ids) or option_given or not others or any(map(_NAMES.search, expressions))
        selection = Selection(collect, tuple(map(own_nodeid, node_ids)), alone=collect and (only or not config.args))
        config.option.quantcheck_selection = asdict(selection)
    return Selection(**config.option.quantcheck_selection)


def _command_line(config: pytest.Config) -> argparse.Namespace:
    """Parse the command line as pytest does, without `addopts`."""
    return config._parser.parse_known_args(config.invocation_params.args)  # noqa: SLF001 - no public way
