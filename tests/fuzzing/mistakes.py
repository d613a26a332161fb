"""Valid inputs with one thing wrong, and what must become of them."""

import copy
import time

from hypothesis import strategies as st

from pytest_quantcheck.errors import QuantcheckError

LONGEST = 2000
"""Characters of a sentence that a terminal can show, whatever was in the file."""

SECONDS = 1.0

TEXTS = st.text(max_size=20) | st.sampled_from(
    [
        "",
        " ",
        "\0",
        "\x1b[31m",
        "\n",
        "\u2028",
        "../..",
        "/dev/zero",
        "nan",
        "1e999",
        "\ud7ff",
        "=",
        "'",
        '"',
        '"""',
        "#",
    ]
)
VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 2**31, 2**63, 2**64, 10**30, -(10**30)])
    | st.floats()
    | TEXTS
    | st.lists(st.integers(), max_size=3)
    | st.dictionaries(TEXTS, st.integers(), max_size=2)
)


def places(value, place=()):
    """Yield the place of each value inside nested dictionaries and lists."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield (*place, key)
        yield from places(one, (*place, key))


@st.composite
def mistaken(draw, valid):
    """Draw a copy of nested dictionaries and lists with one value replaced, removed, added or under another name."""
    changed = copy.deepcopy(valid)
    *outer, key = draw(st.sampled_from(list(places(valid))))
    holder = changed
    for step in outer:
        holder = holder[step]
    match draw(st.sampled_from(["replace", "replace", "remove", "rename", "add", "wrap"])):
        case "replace":
            holder[key] = draw(VALUES)
        case "remove":
            del holder[key]
        case "rename" if isinstance(holder, dict):
            holder[draw(TEXTS)] = holder.pop(key)
        case "add" if isinstance(holder, dict):
            holder[draw(TEXTS)] = draw(VALUES)
        case _:
            holder[key] = [holder[key]]
    return changed


@st.composite
def misspelt(draw, valid):
    """Draw a text with one stretch of it removed, repeated or replaced."""
    start = draw(st.integers(0, len(valid)))
    end = min(len(valid), start + draw(st.integers(0, 30)))
    middle = draw(TEXTS | st.just("") | st.just(valid[start:end] * 2) | st.just(valid[start:end] * 500))
    return valid[:start] + middle + valid[end:]


def outcome(read, *arguments):
    """Return what is read, or the one sentence of its refusal; anything else, and a slow answer, is an error."""
    started = time.process_time()
    try:
        found = read(*arguments)
    except QuantcheckError as refusal:
        found = str(refusal)
        assert 0 < len(found.strip()) <= LONGEST, found
        assert not any(character in found for character in "\n\r\0\x1b"), repr(found)
    assert time.process_time() - started < SECONDS
    return found
