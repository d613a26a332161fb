"""What messages are made of: numbers with their nouns, short lists, times, and the nearest word."""

import difflib
from collections.abc import Collection, Iterable, Sequence

ONE_OF_THESE = " Name one of these."
"""What to do about a name that is like none that exists."""

_SIMILAR = 0.6
"""Likeness of two words from which one may be meant by the other."""


def counted(n: int, noun: str) -> str:
    """Write a number and its noun, such as `1,000 prompts`."""
    return f"{n:,} {plural(n, noun)}"


def shortened(names: Sequence[str], most: int = 3) -> str:
    """List the first names, and how many more there are.

    >>> shortened(["a", "b"]), shortened(["a", "b", "c", "d"], most=2)
    ('a and b', 'a, b and 2 more')
    """
    named, more = list(names[:most]), len(names) - most
    last = f"{more} more" if more > 0 else named.pop()
    return f"{', '.join(named)} and {last}" if named else last


def excerpt(text: str, other: str, most: int = 60) -> str:
    """Shorten a long text to where it begins to differ from another.

    >>> excerpt("a" * 40 + "b" * 9, "a" * 49, most=30)
    '…aaaaaaaaaabbbbbbbbb'
    """
    if len(text) <= most:
        return text
    same = next((place for place, pair in enumerate(zip(text, other, strict=False)) if len(set(pair)) > 1), len(other))
    start = max(same - most // 3, 0)
    return f"{'…' if start else ''}{text[start : start + most]}{'…' if start + most < len(text) else ''}"


def plural(n: int, one: str, many: str = "") -> str:
    """Choose the singular or the plural, by default with an s.

    >>> plural(1, "layer"), plural(2, "layer"), plural(2, "is", "are")
    ('layer', 'layers', 'are')
    """
    return one if n == 1 else many or f"{one}s"


def duration(seconds: float) -> str:
    """Write a time as text in a suitable unit.

    >>> duration(0.2), duration(40), duration(200), duration(8000)
    ('less than 1 s', '40 s', '3 min', '2.2 h')
    """
    if seconds < 1:
        return "less than 1 s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def nearest(word: str, choices: Iterable[str]) -> str:
    """Ask whether the most similar choice is meant.

    The text is empty if no word is similar.

    >>> nearest("ace_drfit", ["ace_drift", "flip_rate"])
    " Did you mean 'ace_drift'?"
    """
    first = next(iter(nearest_first(word, choices)), "")
    return f" Did you mean {first!r}?" if _likeness(word, first) >= _SIMILAR else ""


def nearest_first(word: str, choices: Iterable[str]) -> list[str]:
    """Sort the choices, the most similar to a word first.

    >>> nearest_first("flip-rat", ["ace_drift", "flip_rate"])
    ['flip_rate', 'ace_drift']
    """
    return sorted(choices, key=lambda choice: -_likeness(word, choice))


def likely(words: Collection[str], choices: Collection[str]) -> str:
    """Find the choice most similar to any of some words.

    The text is empty if none is similar.

    >>> likely(["question", "query"], ["id", "Questions"])
    'Questions'
    """
    similar = {choice: max(_likeness(word, choice) for word in words) for choice in choices}
    first = max(similar, key=similar.__getitem__, default="")
    return first if similar.get(first, 0) >= _SIMILAR else ""


def _likeness(word: str, choice: str) -> float:
    first, second = (text.lower().replace("-", "_") for text in (word, choice))
    return difflib.SequenceMatcher(None, second, first).ratio()
