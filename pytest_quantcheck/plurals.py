"""Nouns after numbers."""


def counted(n: int, noun: str) -> str:
    """Return a number and its noun, such as `1,000 prompts`."""
    return f"{n:,} {plural(n, noun)}"


def plural(n: int, one: str, many: str = "") -> str:
    """Return the singular or the plural, by default with an s.

    >>> plural(1, "layer"), plural(2, "layer"), plural(2, "is", "are")
    ('layer', 'layers', 'are')
    """
    return one if n == 1 else many or f"{one}s"
