"""Reading of profiles from TOML; every error names its place in the file."""

import itertools
import re
import tomllib
from typing import Any, TypeVar, get_args

import msgspec

from pytest_quantcheck.bit_widths import WIDTHS, BitWidth
from pytest_quantcheck.errors import ProfileError
from pytest_quantcheck.metrics import Metric, check_limit, find_metric
from pytest_quantcheck.profiles.profile import Inconclusive, LayerName, Limit, Profile, Rule

PROFILE_SCHEMA = 1
"""Version of the profile's file format."""

MOST_PROMPTS = 1_000_000
"""Most prompts that a limit may wait for in `from_prompts`."""

MOST_OVERRIDES = 300
"""Most overrides of one metric: every two of them are compared."""

_DEEPEST = 20
"""Most brackets inside one another, and most dots in a key."""

_STRINGS = re.compile(
    r'''"""(?:\\.|[^\\]|\\\Z)*?(?:"{3,5}|\Z)|'{3}.*?(?:'{3,5}|\Z)|"(?:\\.|[^"\\\n])*"?|'[^'\n]*'?|#[^\n]*''', re.DOTALL
)
"""Strings and comments of TOML, those without an end included."""

_T = TypeVar("_T")

_WORDS = {
    "inconclusive": get_args(Inconclusive),
    "bits": tuple(WIDTHS),
    "layer": ("a block number", *get_args(LayerName)),
}
"""The words that a key may have as its value."""


class _Decision(msgspec.Struct, forbid_unknown_fields=True):
    confidence: float
    inconclusive: Inconclusive


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    schema: int
    name: str
    version: int
    description: str
    decision: _Decision
    metrics: dict[str, Any]


class _Given(msgspec.Struct, forbid_unknown_fields=True):
    evidence: str
    max: float | None = None
    min: float | None = None
    from_prompts: int = 1


class _Override(_Given):
    bits: BitWidth | None = None
    layer: int | LayerName | None = None
    model: str | None = None
    prompts: str | None = None

    def describe(self) -> str:
        keys = {"bits": self.bits, "layer": self.layer, "model": self.model, "prompts": self.prompts}
        return ", ".join(f"{name}={value}" for name, value in keys.items() if value is not None)


class _Table(_Given):
    override: tuple[_Override, ...] = ()


class _PlaceError(Exception):
    """A problem and its place in the file."""

    def __init__(self, place: str, problem: str) -> None:
        super().__init__(f"{place}: {problem}")


def read_profile(data: bytes, path: str) -> Profile:
    """Read and check the bytes of a profile; `path` names it in errors.

    Raises:
        ProfileError: something is unknown, missing, of a wrong type or not a limit; names the path and the place, such
            as `metrics.ace_drift.max`.
    """
    try:
        return _to_profile(_convert(_parse(data.decode("utf-8-sig")), _Document, ""), path)
    except UnicodeDecodeError as problem:
        raise ProfileError(f"{path} is not UTF-8: byte {problem.start}") from None
    except ValueError as problem:
        raise ProfileError(f"{path} is not TOML: {problem}") from None
    except _PlaceError as problem:
        raise ProfileError(f"{path}: {problem}") from None


def _parse(text: str) -> dict[str, Any]:
    """Parse TOML; refuse what would take the parser's stack, or hours."""
    bare = _STRINGS.sub("", text)
    depths = itertools.accumulate(1 if bracket in "[{" else -1 for bracket in re.findall(r"[][{}]", bare))
    if max(depths, default=0) > _DEEPEST:
        raise ValueError(f"expected at most {_DEEPEST} brackets inside one another, got more")
    if any(part.count(".") > _DEEPEST for part in re.split(r"[][{},=\n]", bare)):
        raise ValueError(f"expected keys of at most {_DEEPEST} dots, got more")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except ValueError:  # Python's own limit for the digits of a whole number
        raise ValueError("expected numbers of at most 4,300 digits, got more") from None


def _convert(value: Any, type_: type[_T], place: str) -> _T:
    try:
        return msgspec.convert(value, type_)
    except msgspec.ValidationError as error:
        problem, _, within = str(error).partition(" - at `$")
        inner = (place + within.removesuffix("`")).removeprefix(".") or "top level"
        expected = ", ".join(_WORDS.get(inner.rpartition(".")[2], ()))
        raise _PlaceError(inner, problem.replace("Invalid enum value", f"expected one of {expected}; got")) from None


def _to_profile(document: _Document, path: str) -> Profile:
    _check_head(document)
    label = f"{document.name}@{document.version}"
    rules = [rule for name, table in document.metrics.items() for rule in _read_metric(name, table, label)]
    return Profile(
        name=document.name,
        version=document.version,
        description=document.description,
        confidence=document.decision.confidence,
        inconclusive=document.decision.inconclusive,
        rules=tuple(rules),
        path=path,
    )


def _check_head(document: _Document) -> None:
    if document.schema != PROFILE_SCHEMA:
        raise _PlaceError("schema", f"expected {PROFILE_SCHEMA}, the format this release reads, got {document.schema}")
    if not document.name.strip():
        raise _PlaceError("name", "expected a name, got nothing")
    if document.version < 1:
        raise _PlaceError("version", f"expected a version from 1 up, got {document.version}")
    if not 0.5 <= document.decision.confidence <= 0.9999:
        raise _PlaceError("decision.confidence", f"expected 0.5 to 0.9999, got {document.decision.confidence}")
    if not document.metrics:
        raise _PlaceError("metrics", "expected a table for at least one metric: this profile would pass everything")


def _read_metric(name: str, raw: Any, label: str) -> list[Rule]:
    place = f"metrics.{name}"
    try:
        metric = find_metric(name)
    except ValueError as problem:
        raise _PlaceError(place, str(problem)) from None
    table = _convert(raw, _Table, place)
    base = Rule(limit=_read_limit(metric, table, place, label))
    if len(table.override) > MOST_OVERRIDES:
        raise _PlaceError(f"{place}.override", f"expected at most {MOST_OVERRIDES}, got {len(table.override):,}")
    overrides = {f"{place}.override[{number}]": override for number, override in enumerate(table.override)}
    rules = {inner: _read_override(metric, override, inner, label) for inner, override in overrides.items()}
    _refuse_ambiguity(rules)
    return [base, *rules.values()]


def _read_limit(metric: Metric, table: _Given, place: str, source: str) -> Limit:
    wrong = "min" if metric.direction == "max" else "max"
    value = getattr(table, metric.direction)
    if getattr(table, wrong) is not None:
        raise _PlaceError(f"{place}.{wrong}", f"{metric.name} is limited by {metric.direction}; write that instead")
    if value is None:
        raise _PlaceError(place, f"expected {metric.direction}, the limit of {metric.name}, found none")
    if not table.evidence.strip():
        raise _PlaceError(f"{place}.evidence", "expected what was measured, on what, with which versions; got nothing")
    try:
        check_limit(metric, value)
    except ValueError as problem:
        raise _PlaceError(f"{place}.{metric.direction}", str(problem)) from None
    if not 1 <= table.from_prompts <= MOST_PROMPTS:
        raise _PlaceError(
            f"{place}.from_prompts",
            f"expected a number of prompts from 1 to {MOST_PROMPTS:,} (a limit that no run reaches never fails), got "
            f"{table.from_prompts}",
        )
    return Limit(
        metric=metric.name,
        value=value,
        direction=metric.direction,
        evidence=table.evidence,
        source=source,
        from_prompts=table.from_prompts,
    )


def _read_override(metric: Metric, override: _Override, place: str, label: str) -> Rule:
    if not override.describe():
        raise _PlaceError(place, "expected at least one of bits, layer, model, prompts: the case of this limit")
    if override.layer is not None and not metric.layered:
        raise _PlaceError(f"{place}.layer", f"{metric.name} has no layers; remove the key")
    if isinstance(override.layer, int) and override.layer < 0:
        raise _PlaceError(f"{place}.layer", f"expected a block counted from 0, got {override.layer}")
    limit = _read_limit(metric, override, place, f"{label} ({override.describe()})")
    return Rule(limit=limit, bits=override.bits, layer=override.layer, model=override.model, prompts=override.prompts)


def _refuse_ambiguity(rules: dict[str, Rule]) -> None:
    for (earlier, rule), (later, later_rule) in itertools.combinations(rules.items(), 2):
        if rule.rank == later_rule.rank and rule.may_meet(later_rule):
            raise _PlaceError(
                later,
                f"has as many keys as {earlier} and both can match the same case, so neither wins; "
                "add another key to one of them",
            )
