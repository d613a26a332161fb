"""How a profile is named, `NAME` or `NAME@VERSION`: one rule for the command line and for files."""

import re

DEFAULT_PROFILE = "default@2"
"""Profile of a gate and of an assertion for which the user names none."""

_LABEL = re.compile(r"(\w[\w-]{0,63})(?:@([1-9]\d{0,8}))?", re.ASCII)


def read_label(text: str) -> tuple[str, int | None]:
    """Split a profile's label into name and version; the name is a valid folder name.

    >>> read_label("strict@2"), read_label("strict")
    (('strict', 2), ('strict', None))
    """
    match = _LABEL.fullmatch(text)
    if not match:
        raise ValueError(
            f"expected NAME or NAME@VERSION, such as strict or strict@2 (at most 64 letters, digits, _ and -; versions "
            f"count from 1), got {text!r}"
        )
    return match[1], int(match[2]) if match[2] else None
