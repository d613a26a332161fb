"""Names of the columns of prompts and golds in a file."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from pytest_quantcheck.text import likely, nearest

COLUMNS: Mapping[str, str] = {"prompt": "prompt", "gold": "gold"}
"""What a file must have, and the column that has it by default."""

_USUAL: Mapping[str, tuple[str, ...]] = {
    "prompt": ("prompt", "question", "query", "input", "text", "instruction", "sentence"),
    "gold": ("gold", "answer", "label", "target", "output", "response", "expected", "reference"),
}
"""What others call them, for a guess."""


def parse_columns(raw: str) -> dict[str, str]:
    """Parse the columns of prompt and gold; what is not named keeps its name.

    >>> parse_columns("prompt=question,gold=answer")
    {'prompt': 'question', 'gold': 'answer'}
    """
    named: dict[str, str] = {}
    for part in raw.split(","):
        name, equals, column = part.partition("=")
        if not (equals and column.strip()):
            raise ValueError(f"expected NAME=COLUMN, such as prompt=question,gold=answer, got {part!r:.100}")
        if name.strip() in named:
            raise ValueError(f"expected {name.strip()} once, got it twice in {raw!r:.100}")
        named[name.strip()] = column
    return complete(named)


def complete(named: Mapping[str, str]) -> dict[str, str]:
    """Fill in the column of each name that is missing.

    Raises:
        ValueError: a name that no file needs, or one column for both.
    """
    for name in named.keys() - COLUMNS.keys():
        raise ValueError(f"expected prompt or gold before a column's name, got {name!r:.100}.{nearest(name, COLUMNS)}")
    columns = {**COLUMNS, **named}
    if columns["prompt"] == columns["gold"]:
        raise ValueError(f"expected two columns, got {columns['prompt']!r:.100} for both prompt and gold")
    return columns


def suggest(columns: Mapping[str, str], header: Sequence[str]) -> str:
    """Spell the option, as it is typed, for the likeliest columns found.

    >>> suggest(COLUMNS, ["id", "question", "answer"])
    '--quantcheck-columns=prompt=question,gold=answer'
    """
    meant: dict[str, str] = {}
    for name, column in columns.items():
        free = [
            heading for heading in header if heading not in {*columns.values(), *meant.values()} and "," not in heading
        ]
        meant[name] = column if column in header else likely(_USUAL[name], free) or "COLUMN"
    changed = {name: column for name, column in meant.items() if column != COLUMNS[name]} or meant
    return shlex.quote(f"--quantcheck-columns={','.join(f'{name}={column}' for name, column in changed.items())}")
