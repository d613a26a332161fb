"""Text from outside, as a page may show it: markup is the template's care, what cannot be seen is ours."""

LONGEST = 1_000
"""Characters of a prompt that are shown: more would make a page of thousands of prompts too large to open."""

FOLDED = 160
"""Characters above which a prompt is folded."""

_TAIL = 300  # a prompt's question usually stands at its end
_KEPT = frozenset("\n\t\u200c\u200d\u200e\u200f\U000e007f") | {chr(code) for code in range(0xE0020, 0xE007F)}
"""Not printable by themselves, but parts of lines, of emoji or of right-to-left text."""


def visible(text: str) -> str:
    r"""The text with what cannot be seen, or would reorder what stands around it, written as an escape.

    >>> visible("a\nb\x1b[31m\u202e")
    'a\nb\\x1b[31m\\u202e'
    """
    return "".join(c if c.isprintable() or c in _KEPT else c.encode("unicode_escape").decode() for c in text)


def answer(text: str) -> str:
    r"""A token in quotes that show its blanks; line ends are escapes.

    >>> answer(" True\n")
    '“ True\\n”'
    """
    shown = visible(text).replace("\n", r"\n").replace("\t", r"\t")
    return f"“{shown}”"


def shortened(text: str) -> str:
    """The text, or its beginning and its end with the number of characters between them that are left out."""
    if len(text) <= LONGEST:
        return text
    left_out = len(text) - LONGEST
    return f"{text[: LONGEST - _TAIL]} […{left_out:,} characters left out…] {text[-_TAIL:]}"
