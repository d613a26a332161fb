"""Values of `--quantcheck-template`, and their use on rows."""

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_quantcheck.errors import PromptError

_CHAT = {"auto": None, "chat": True, "raw": False}


@dataclass(frozen=True)
class Template:
    """Rule that turns a prompt into a text.

    `chat`: wrap it in the tokenizer's chat template (True), do not (False), or wrap it if there is one (None).
    `format`: a format string over the columns of a row, or None to take the prompt as it is.
    """

    chat: bool | None = None
    format: str | None = None

    @property
    def fields(self) -> frozenset[str]:
        """The columns that the format uses."""
        return _fields(self.format) if self.format is not None else frozenset({"prompt"})

    def __str__(self) -> str:
        """Spell it as `parse_template` reads it back."""
        mode = next(word for word, chat in _CHAT.items() if chat is self.chat)
        return mode if self.format is None else f"{mode}:{self.format}"


def parse_template(spec: str) -> Template:
    r"""Parse `auto`, `chat`, `raw`, FORMAT, or a word, a colon and FORMAT.

    A FORMAT alone is raw. It contains `{prompt}` and may contain other columns; literal braces are doubled.

    >>> parse_template("chat:Respond with True or False only.\n{prompt}\nAnswer:").chat
    True
    """
    mode, format_ = _split(spec)
    if format_ is None:
        return Template(_CHAT[mode])
    if "prompt" not in _fields(format_):
        raise PromptError(f"template: expected auto, chat, raw or a format with {{prompt}} in it, got {spec!r}")
    return Template(_CHAT[mode], format_)


def render(format_: str, row: Mapping[str, str]) -> str:
    """Write the text of one row.

    >>> render("{goal}: A or B?", {"goal": "boil water"})
    'boil water: A or B?'
    """
    return string.Formatter().vformat(format_, (), row)


def _split(spec: str) -> tuple[str, str | None]:
    match = re.fullmatch(r"(auto|chat|raw)(?::(.*))?", spec, re.DOTALL)
    return (match[1], match[2]) if match else ("raw", spec)


def _fields(format_: str) -> frozenset[str]:
    try:
        parts = list(string.Formatter().parse(format_))
    except ValueError as problem:
        raise PromptError(f"template {format_!r}: {problem}; write a literal brace as {{{{ or }}}}") from None
    for _, name, spec, conversion in parts:
        if name is not None and (not name or spec or conversion or re.search(r"[.\[\]]|^\d+$", name)):
            raise PromptError(f"template {format_!r}: expected plain column names in braces, got {{{name}}}")
    return frozenset(name for _, name, _, _ in parts if name is not None)
