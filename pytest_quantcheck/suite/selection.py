"""Whether a run collects the packaged suite, and which of its tests."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import pytest

from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.options import OPTIONS
from pytest_quantcheck.suite.items import SUITE, is_suite, own_nodeid

_NAMES = re.compile(rf"\b{SUITE}\b|{'|'.join(METRICS)}")
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

    The selection is kept among the options, which xdist hands to its workers: they do not see what was taken.
    """
    if not hasattr(config.option, "quantcheck_selection"):
        node_ids = [argument for argument in config.args if is_suite(argument)]
        config.args = [argument for argument in config.args if argument not in node_ids]
        collect = only or bool(node_ids) or _is_asked_for(config)
        selection = Selection(collect, tuple(map(own_nodeid, node_ids)), alone=collect and (only or not config.args))
        config.option.quantcheck_selection = asdict(selection)
    return Selection(**config.option.quantcheck_selection)


def _is_asked_for(config: pytest.Config) -> bool:
    """Tell whether the suite is collected beside the tests that are named.

    Any option of ours on the command line asks for it. A model in the ini file alone does where the command line names
    nothing else: no path, no node id, and no expression that selects other tests.
    """
    if any(config.getoption(option.dest) is not None for option in OPTIONS):
        return True
    expressions = list(_expressions(config.invocation_params.args))
    named = config.args_source is pytest.Config.ArgsSource.ARGS
    return any(map(_NAMES.search, expressions)) or not (named or expressions)


def _expressions(arguments: Sequence[object]) -> Iterator[str]:
    """Yield the expressions of `-k` and `-m`, without those in `addopts`."""
    words = [str(argument) for argument in arguments]
    for word, after in zip(words, [*words[1:], ""], strict=True):
        if word in ("-k", "-m"):
            yield after
        elif word.startswith(("-k", "-m")):
            yield word[2:].removeprefix("=")
