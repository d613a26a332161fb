"""Text from outside made safe to show; the template escapes the markup in it."""

from typing import NamedTuple

from pytest_quantcheck.prompts import PromptSet

LONGEST = 1_000
"""Most characters of a prompt that are shown, as a page may have thousands of prompts."""

FOLDED = 160
"""Most characters of a prompt that is not folded."""

_TAIL = 300  # a prompt's question usually stands at its end
_KEPT = frozenset("\n\t\u200c\u200d\u200e\u200f\U000e007f") | {chr(code) for code in range(0xE0020, 0xE007F)}
"""Characters that are not printable, but parts of lines, of emoji or of right-to-left text."""


class ShownPrompt(NamedTuple):
    """A prompt and its row; `beginning` is set if the text is folded, `text` is None if unknown."""

    row: int
    text: str | None
    beginning: str | None


def shown_prompt(prompts: PromptSet | None, index: int) -> ShownPrompt:
    """Find the prompt at a position of its prompt set.

    It is not known without the set; a long text lacks its middle.
    """
    if prompts is None or index >= len(prompts):
        return ShownPrompt(index + 1, None, None)
    text = without_middle(visible(prompts.prompts[index]))
    return ShownPrompt(
        prompts.rows[index], text, None if len(text) <= FOLDED else text[: FOLDED // 2].replace("\n", " ")
    )


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
    return f"“{on_one_line(text)}”"


def on_one_line(text: str) -> str:
    """Write line ends and tabs as escapes, too."""
    return visible(text).replace("\n", r"\n").replace("\t", r"\t")


def without_middle(text: str) -> str:
    """Cut the middle out of a text that is too long."""
    if len(text) <= LONGEST:
        return text
    left_out = len(text) - LONGEST
    return f"{text[: LONGEST - _TAIL]} […{left_out:,} characters left out…] {text[-_TAIL:]}"
