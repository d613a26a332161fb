"""Text from outside made safe to show; the template escapes the markup in it."""

LONGEST = 1_000
"""Most characters of a prompt that are shown, as a page may have thousands of prompts."""

FOLDED = 160
"""Most characters of a prompt that is not folded."""

_TAIL = 300  # a prompt's question usually stands at its end
_KEPT = frozenset("\n\t\u200c\u200d\u200e\u200f\U000e007f") | {chr(code) for code in range(0xE0020, 0xE007F)}
"""Characters that are not printable, but parts of lines, of emoji or of right-to-left text."""


def visible(text: str) -> str:
    r"""Write invisible and reordering characters as escapes.

    >>> visible("a\nb\x1b[31m\u202e")
    'a\nb\\x1b[31m\\u202e'
    """
    return "".join(c if c.isprintable() or c in _KEPT else c.encode("unicode_escape").decode() for c in text)


def answer(text: str) -> str:
    r"""Quote a token, with line ends as escapes.

    >>> answer(" True\n")
    '“ True\\n”'
    """
    shown = visible(text).replace("\n", r"\n").replace("\t", r"\t")
    return f"“{shown}”"


def without_middle(text: str) -> str:
    """Cut the middle out of a text that is too long."""
    if len(text) <= LONGEST:
        return text
    left_out = len(text) - LONGEST
    return f"{text[: LONGEST - _TAIL]} […{left_out:,} characters left out…] {text[-_TAIL:]}"
