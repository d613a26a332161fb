"""Writing of profiles as TOML that `read_profile` can read."""

import re
from collections.abc import Iterator

from pytest_quantcheck.profiles.profile import Profile, Rule
from pytest_quantcheck.profiles.reading import PROFILE_SCHEMA

ROW_WIDTH = 100
"""Most characters in a row of a long text, without its key and its quotes."""

_SHORT = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t"}


def profile_text(profile: Profile) -> str:
    """Write a profile's file; `read_profile` reads the same profile from it, except the path.

    The first rule of each metric must be the limit without a case, as in a file.
    """
    return "\n".join((*_head(profile), *(line for rule in profile.rules for line in _table(rule)), ""))


def toml_string(text: str) -> str:
    r"""Write a text as a TOML string; a long text has several lines, which a reader joins.

    A byte that is not UTF-8, as in some paths, is written as an escape.

    >>> print(toml_string('a "b"\x07'))
    "a \"b\"\u0007"
    """
    escaped = _escaped(text)
    if len(escaped) <= ROW_WIDTH:
        return f'"{escaped}"'
    return '"""' + "\\\n".join(_wrapped_rows(text)) + '"""'


def _head(profile: Profile) -> Iterator[str]:
    yield f"schema = {PROFILE_SCHEMA}"
    yield f"name = {toml_string(profile.name)}"
    yield f"version = {profile.version}"
    yield f"description = {toml_string(profile.description)}"
    yield from ("", "[decision]", f"confidence = {profile.confidence!r}")
    yield f"inconclusive = {toml_string(profile.inconclusive)}"


def _table(rule: Rule) -> Iterator[str]:
    limit = rule.limit
    yield ""
    yield f"[[metrics.{limit.metric}.override]]" if rule.rank else f"[metrics.{limit.metric}]"
    for key, value in rule.case.items():
        yield f"{key} = {value if isinstance(value, int) else toml_string(value)}"
    yield f"{limit.direction} = {limit.value!r}"
    if limit.from_prompts > 1:
        yield f"from_prompts = {limit.from_prompts}"
    yield f"evidence = {toml_string(limit.evidence)}"


def _wrapped_rows(text: str) -> Iterator[str]:
    """Break a text between words; blanks stay at row ends, as a reader drops leading ones."""
    row = ""
    for word in re.findall(r"\S+\s*|\s+", text):
        added = _escaped(word)
        if row and len(row) + len(added) > ROW_WIDTH:
            yield row
            row = ""
        row += added
    yield row


def _escaped(text: str) -> str:
    return "".join(map(_escape, text.encode("utf-8", "backslashreplace").decode()))


def _escape(character: str) -> str:
    if character in _SHORT:
        return _SHORT[character]
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
