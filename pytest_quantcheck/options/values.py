"""Parsers from the text of one option to its value.

Each raises `ValueError` with what was expected and what came.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from pytest_quantcheck.bit_widths import WIDTHS
from pytest_quantcheck.metric_names import MetricName
from pytest_quantcheck.metrics import check_limit, find_metric
from pytest_quantcheck.options.labels import read_label
from pytest_quantcheck.serving import changes_function
from pytest_quantcheck.text import nearest

BIT_WIDTHS: Mapping[str, str] = {
    **{name: name for name in WIDTHS},
    **{width.short: name for name, width in WIDTHS.items() if width.short},
}
"""Each spelling of a bit-width and its exact name."""

_FLOAT_DTYPES = {width.dtype: name for name, width in WIDTHS.items() if width.dtype}
PRECISIONS: Mapping[str, str] = {
    "auto": "auto",
    **{name: name for name in _FLOAT_DTYPES.values()},
    "16": "bf16",
    "32": "fp32",
    **_FLOAT_DTYPES,
}
"""Each spelling of the reference's precision and its exact name; `auto` is the checkpoint's own."""

FEWEST_NEURONS = 256
"""Neurons that an interval's width is taken from: no fewer are correlated in a layer that has them."""

_LONGEST_PATH, _LONGEST_NAME = 4095, 255
"""Bytes of the longest path and of the longest name in it that file systems have."""

_HOW_MANY: Mapping[str, Literal["auto", "all"]] = {"auto": "auto", "all": "all"}
_NAMED_LAYERS: Mapping[str, Literal["paper", "all"]] = {"paper": "paper", "all": "all"}
_READOUTS = {name: name for name in ("token", "choices", "substring")}
_ENGINES = {name: name for name in ("local", "ray")}


def parse_text(raw: str) -> str:
    """Parse one line of text that is not blank."""
    text = raw.strip()
    if not text:
        raise ValueError("expected a value, got nothing; name one or leave the option out")
    if any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in text):
        raise ValueError(f"expected a name without control characters, got {text!r:.200}; rename the file or directory")
    if len(text.encode()) > _LONGEST_PATH or any(len(part.encode()) > _LONGEST_NAME for part in text.split("/")):
        raise ValueError(
            f"expected at most {_LONGEST_NAME} bytes between slashes and {_LONGEST_PATH:,} in all, got {text[:60]!r} "
            "and more"
        )
    try:
        Path(text).expanduser()
    except RuntimeError as problem:
        raise ValueError(f"expected a path, got {text!r}: {problem}") from None
    return text


def parse_template_text(raw: str) -> str:
    r"""Parse a template; a literal `\n` or `\t` becomes newline or tab."""
    if not raw.strip():
        raise ValueError("expected auto, chat, raw or a format with {prompt}, got nothing")
    if any(unicodedata.category(letter) == "Cc" and letter not in "\n\r\t" for letter in raw):
        raise ValueError(f"expected a template without control characters, got {raw!r:.200}")
    return raw.replace("\\n", "\n").replace("\\t", "\t")


def parse_name(spellings: Mapping[str, str]) -> Callable[[str], str]:
    """Make a parser from known spellings to their exact names."""

    def parse(raw: str) -> str:
        word = raw.strip().lower()
        if word not in spellings:
            raise ValueError(f"expected one of {', '.join(spellings)}, got {raw!r}.{nearest(word, spellings)}")
        return spellings[word]

    return parse


parse_dtype = parse_name(PRECISIONS)
parse_readout = parse_name(_READOUTS)
parse_engine = parse_name(_ENGINES)


def parse_bits(raw: str) -> tuple[str, ...]:
    """Parse bit-widths into their exact names, in the order given.

    >>> parse_bits("8,4")
    ('int8', 'nf4')
    """
    names = tuple(parse_name(BIT_WIDTHS)(word) for word in raw.split(","))
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"expected each bit-width once, got {raw!r}, which names {', '.join(sorted(twice))} twice")
    return names


def parse_whole(minimum: int, why: str = "") -> Callable[[str], int]:
    """Make a parser of whole numbers from `minimum` up; `why` explains the minimum."""

    def parse(raw: str) -> int:
        word = raw.strip()
        if not is_whole(word) or int(word) < minimum:
            raise ValueError(
                f"expected a whole number of at least {minimum}{why and f' ({why})'}, got {raw!r:.100}"
                f"{_whole_hint(raw, minimum)}"
            )
        return int(word)

    return parse


def parse_shard(raw: str) -> tuple[int, int]:
    """Parse number and count of a shard.

    >>> parse_shard("3/8")
    (3, 8)
    """
    words = [word.strip() for word in raw.split("/")]
    number, count = map(int, words) if len(words) == 2 and all(map(is_whole, words)) else (0, 0)
    if not (1 <= number <= count and count > 1):
        raise ValueError(f"expected one of at least two shards, counted from 1, such as 3/8, got {raw!r:.100}")
    return number, count


def parse_layers(raw: str) -> Literal["paper", "all"] | tuple[int, ...]:
    """Parse `paper` (first, middle, last), `all`, or block numbers, ascending.

    >>> parse_layers("29,0,14")
    (0, 14, 29)
    """
    word = raw.strip()
    if word in _NAMED_LAYERS:
        return _NAMED_LAYERS[word]
    if not all(is_whole(part.strip()) for part in word.split(",")):
        raise ValueError(f"expected paper, all or block numbers counted from 0, such as 0,14,29, got {raw!r:.100}")
    layers = sorted(int(part) for part in word.split(","))
    if len(set(layers)) < len(layers):
        raise ValueError(f"expected each layer once, got {raw!r:.100}")
    return tuple(layers)


def parse_neurons(raw: str) -> Literal["auto", "all"] | int:
    """Parse `auto`, `all` or a number of neurons.

    The number is at least that of the neurons from which intervals are made.


    >>> parse_neurons("4096")
    4096
    """
    word = raw.strip()
    if word in _HOW_MANY:
        return _HOW_MANY[word]
    if not is_whole(word) or int(word) < FEWEST_NEURONS:
        raise ValueError(f"expected auto, all or a whole number of at least {FEWEST_NEURONS}, got {raw!r:.100}")
    return int(word)


def parse_metric(raw: str) -> MetricName:
    """Parse the name of a metric."""
    return find_metric(raw.strip()).name


def parse_served_field(raw: str) -> str:
    """Parse a field in which a candidate may be served otherwise.

    >>> parse_served_field("generation_config.temperature")
    'generation_config.temperature'
    """
    name = raw.strip()
    if not re.fullmatch(r"(config|generation_config|tokenizer)(\.\w+)+", name):
        raise ValueError(
            "expected a field of config, generation_config or tokenizer, such as generation_config.eos_token_id, got "
            f"{raw!r:.100}"
        )
    if changes_function(name):
        raise ValueError(
            f"expected a field that decides how a model is served, got {name!r:.100}, which decides what it computes "
            "and cannot be allowed"
        )
    return name


def parse_limit(raw: str) -> tuple[MetricName, float]:
    """Parse a metric and its limit.

    >>> parse_limit("ace_drift:0.05")
    ('ace_drift', 0.05)
    """
    name, colon, number = raw.partition(":")
    if not colon:
        raise ValueError(f"expected METRIC:VALUE, such as ace_drift:0.05, got {raw!r:.100}")
    metric = find_metric(name.strip())
    expected = f"expected a number after {metric.name}:, got {number!r:.100}"
    value = _read_float(number, expected, fits=metric.can_limit)
    return metric.name, check_limit(metric, value)


def parse_new_profile(raw: str) -> str:
    """Parse the name of a new profile, with or without a version."""
    read_label(raw.strip())
    return raw.strip()


def parse_rate(raw: str) -> float:
    """Parse a share of harmless candidates: above 0, at most 0.5.

    >>> parse_rate("0.01")
    0.01
    """
    expected = f"expected a rate above 0 and at most 0.5, such as 0.01, got {raw!r:.100}"
    value = _read_float(raw, expected, fits=_is_rate)
    if not _is_rate(value):
        raise ValueError(expected)
    return value


def parse_device(raw: str) -> str:
    """Parse `auto`, `cpu`, `cuda` or `cuda:N`."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", raw.strip(), re.ASCII):
        raise ValueError(f"expected auto, cpu, cuda or cuda:N, got {raw!r}")
    return raw.strip()


_UNITS = {
    f"{letter}{ending}": base**power
    for power, letter in enumerate("kmgt", start=1)
    for ending, base in {"b": 1000, "ib": 1024}.items()
}


def parse_size(raw: str) -> int:
    """Parse a size in memory to bytes.

    >>> parse_size("1.5GiB"), parse_size("20 GB")
    (1610612736, 20000000000)
    """
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?) *([kmgt]i?b)", raw.strip().lower(), re.ASCII)
    size = int(float(found[1]) * _UNITS[found[2]]) if found else 0
    if size < 1:
        raise ValueError(f"expected a size such as 20GiB or 500MB, got {raw!r:.100}")
    return size


def parse_memory(raw: str) -> int | None:
    """Parse a size in memory; None for `auto`.

    >>> parse_memory("auto")
    """
    return None if raw.strip() == "auto" else parse_size(raw)


def parse_max_memory(raw: str) -> tuple[tuple[str, int], ...]:
    """Parse what weights may take of some devices.

    >>> parse_max_memory("cuda:0:60GiB, cpu:200GB")
    (('cuda:0', 64424509440), ('cpu', 200000000000))
    """
    found: list[tuple[str, int]] = []
    for part in raw.split(","):
        device, _, size = part.strip().rpartition(":")
        if not re.fullmatch(r"cpu|cuda:\d{1,3}", device, re.ASCII):
            raise ValueError(f"expected DEVICE:SIZE, such as cuda:0:60GiB or cpu:200GiB, got {part.strip()!r:.100}")
        if device in dict(found):
            raise ValueError(f"expected {device} once, got it twice")
        found.append((device, parse_size(size)))
    return tuple(found)


def parse_address(raw: str) -> str:
    """Parse `auto` or the host and port of a Ray cluster.

    >>> parse_address("head-node:6379")
    'head-node:6379'
    """
    word = raw.strip()
    host, _, port = word.rpartition(":")
    if word != "auto" and not (host and "/" not in host and is_whole(port) and int(port) < 2**16):
        raise ValueError(
            f"expected auto, or HOST:PORT of the cluster's head node, such as node1:6379, got {raw!r:.100}"
        )
    return word


def parse_gpus(raw: str) -> float:
    """Parse a number of GPUs, or a share of one.

    >>> parse_gpus("2"), parse_gpus("0.5")
    (2.0, 0.5)
    """
    expected = f"expected a whole number of GPUs or a share between 0 and 1, got {raw!r:.100}"
    value = _read_float(raw, expected, fits=_is_gpus)
    if not _is_gpus(value):
        raise ValueError(expected)
    return value


def parse_directory(raw: str) -> str:
    """Parse the name of a directory, which need not exist."""
    directory = parse_text(raw)
    if Path(directory).is_file():
        raise ValueError(f"expected a directory, got the file {directory!r}; name another place")
    return directory


def is_whole(text: str) -> bool:
    """Tell whether a text is 1 to 18 digits 0 to 9."""
    return re.fullmatch(r"\d{1,18}", text, re.ASCII) is not None


def _is_rate(value: float) -> bool:
    return 0 < value <= 0.5


def _is_gpus(value: float) -> bool:
    return 0 <= value < 1000 and (value <= 1 or value.is_integer())


def _read_float(raw: str, expected: str, *, fits: Callable[[float], bool]) -> float:
    """Read a number; otherwise say what was expected, and guess what was meant where that `fits`."""
    value = _to_float(raw)
    if value is None:
        raise ValueError(expected + _float_hint(raw, fits))
    return value


def _to_float(text: str) -> float | None:
    """Read a number, or None; Python's float() also reads 0.0_5 and digits of other scripts."""
    try:
        return float(text) if text.isascii() and "_" not in text else None
    except ValueError:
        return None


def _float_hint(raw: str, fits: Callable[[float], bool]) -> str:
    text = raw.strip().replace("_", "").replace(",", ".")
    number = _to_float(text.removesuffix("%"))
    if number is None:
        return _digits_hint(raw)
    meant = number / 100 if text.endswith("%") else number
    return f". Did you mean {meant:g}?" if fits(meant) else ""


def _whole_hint(raw: str, minimum: int) -> str:
    digits = re.sub(r"[\s_,+]", "", raw)
    if digits.isdecimal() and len(digits) > 18:
        return "; at most 18 digits are read"
    return f". Did you mean {digits}?" if is_whole(digits) and int(digits) >= minimum else _digits_hint(raw)


def _digits_hint(raw: str) -> str:
    """Say what to do about digits of other scripts, which Python reads."""
    return "" if raw.isascii() else "; write it with the digits 0 to 9"
