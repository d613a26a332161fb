"""Docstrings say what a thing is or does in a few words, before the details."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "pytest_quantcheck"
MOST = 12
"""Words before the first full stop, colon or semicolon."""


def long_openings(source: str) -> Iterator[str]:
    """Yield the opening of each docstring that goes on for longer."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node) or ""
            opening = re.split(r"(?<=[.?!:;])\s|\n\n", text.strip())[0]
            if len(opening.split()) > MOST:
                yield f"{getattr(node, 'lineno', 1)}: {opening}"


def test_docstrings_begin_with_a_dozen_words_at_most():
    """Who reads a list of functions reads their first words."""
    files = sorted(PACKAGE.rglob("*.py"))
    found = [f"{path.relative_to(PACKAGE)}:{line}" for path in files for line in long_openings(path.read_text())]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("words", "seen"), [(12, False), (13, True)])
def test_long_opening_is_seen(words, seen):
    """Twelve words pass, thirteen do not."""
    source = f'def f():\n    """{"word " * words}."""\n'.replace(" .", ".")
    assert bool(list(long_openings(source))) == seen
