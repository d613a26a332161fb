"""Numbers with their nouns, and lists that are cut short."""

from collections.abc import Sequence


def counted(n: int, noun: str) -> str:
    """Return a number and its noun, such as `1,000 prompts`."""
    return f"{n:,} {plural(n, noun)}"


def shortened(names: Sequence[str], most: int = 3) -> str:
    """Return the first names, and how many more there are.

    >>> shortened(["a", "b"]), shortened(["a", "b", "c", "d"], most=2)
    ('a and b', 'a, b and 2 more')
    """
    named, more = list(names[:most]), len(names) - most
    last = f"{more} more" if more > 0 else named.pop()
    return f"{', '.join(named)} and {last}" if named else last


def plural(n: int, one: str, many: str = "") -> str:
    """Return the singular or the plural, by default with an s.

    >>> plural(1, "layer"), plural(2, "layer"), plural(2, "is", "are")
    ('layer', 'layers', 'are')
    """
    return one if n == 1 else many or f"{one}s"
