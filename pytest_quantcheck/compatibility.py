"""One table: what a difference in each field of `Provenance` means, for each purpose."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from pytest_quantcheck.records import Provenance

Purpose = Literal["comparing", "baseline", "cache", "resuming", "merging", "release"]
"""Comparing a candidate with its reference; taking a stored reference in place of one measured now; finding a
measurement in the cache; resuming an unfinished one; merging shards; accepting a released checkpoint as a candidate."""


class Meaning(Enum):
    """What a difference means.

    `REFUSED`: the two do not go together. `NAME`: the same, unless both have the same known content hash: a name says
    nothing about files whose content is known. `CONDITION`: the verdict reports it. `NOTHING`: no part in this
    purpose, or it follows from fields that have one.
    """

    REFUSED = "refused"
    NAME = "name"
    CONDITION = "condition"
    NOTHING = "nothing"


class Meanings(NamedTuple):
    """The meaning of a difference in one field, for each `Purpose`."""

    comparing: Meaning
    baseline: Meaning
    cache: Meaning
    resuming: Meaning
    merging: Meaning
    release: Meaning


X, NAME, COND, NO = Meaning.REFUSED, Meaning.NAME, Meaning.CONDITION, Meaning.NOTHING

# fmt: off
TABLE: dict[str, Meanings] = {
    #                            comparing  baseline  cache  resuming  merging  release
    "model":              Meanings(NO,       NO,       NO,    NAME,     NAME,    NO),
    "bits":               Meanings(NO,       X,        X,     X,        X,       NO),
    "revision":           Meanings(NO,       X,        NO,    NAME,     NAME,    NO),
    "content_hash":       Meanings(NO,       X,        X,     X,        X,       NO),
    "dtype":              Meanings(NO,       X,        X,     X,        X,       NO),
    "format":             Meanings(NO,       NO,       NO,    X,        X,       NO),
    "module_types":       Meanings(NO,       NO,       NO,    X,        X,       NO),
    "quantization":       Meanings(NO,       NO,       NO,    X,        X,       NO),
    "quantized_share":    Meanings(NO,       NO,       NO,    X,        X,       NO),
    "gradient_path":      Meanings(NO,       NO,       NO,    X,        X,       NO),
    "architecture":       Meanings(NO,       NO,       NO,    X,        X,       NO),
    "n_layers":           Meanings(X,        NO,       NO,    X,        X,       X),
    "width":              Meanings(X,        NO,       NO,    X,        X,       X),
    "vocabulary_hash":    Meanings(X,        NO,       NO,    X,        X,       X),
    "chat_template_hash": Meanings(X,        NO,       NO,    X,        X,       X),
    "encoding_hash":      Meanings(X,        NO,       NO,    X,        X,       NO),
    "prompt_set":         Meanings(X,        NO,       NO,    NO,       NO,      NO),
    "prompt_hash":        Meanings(X,        X,        X,     X,        X,       NO),
    "template":           Meanings(X,        X,        NO,    X,        X,       NO),
    "readout":            Meanings(X,        X,        X,     X,        X,       NO),
    "layers":             Meanings(X,        X,        X,     X,        X,       NO),
    "redundancy_neurons": Meanings(X,        NO,       X,     X,        X,       NO),
    "attribution":        Meanings(X,        X,        X,     X,        X,       NO),
    "seed":               Meanings(X,        X,        X,     X,        X,       NO),
    "batch_size":         Meanings(COND,     NO,       X,     X,        NO,      NO),
    "device":             Meanings(COND,     NO,       X,     X,        X,       NO),
    "libraries":          Meanings(COND,     NO,       X,     X,        X,       NO),
}
# fmt: on
"""Fields that only a loaded model has are not known to the baseline and the cache beforehand: a baseline's are compared
when a candidate is, the cache's follow from the files, the options and the libraries."""

_HOW_A_RELEASE_DIFFERS = {
    "vocabulary_hash": "its vocabulary is another (SHA-256 {obtained:.12}…, the reference's {expected:.12}…): tokens "
    "or their numbers differ; release it with the reference's tokenizer files",
    "chat_template_hash": "its chat template is another (SHA-256 {obtained:.12}…, the reference's {expected:.12}…): "
    "compare chat_template.jinja, or chat_template in tokenizer_config.json, with the reference's",
    "n_layers": "it has {obtained} layers, the reference {expected}",
    "width": "its hidden states are {obtained} wide, the reference's {expected}",
}


class Difference(NamedTuple):
    """One field in which two models or measurements differ, and both values."""

    field: str
    expected: Any
    obtained: Any


def fields(purpose: Purpose, *meanings: Meaning) -> tuple[str, ...]:
    """Select the fields that have one of some meanings for a purpose."""
    return tuple(name for name, row in TABLE.items() if getattr(row, purpose) in meanings)


def refusals(purpose: Purpose, expected: object, obtained: object) -> list[Difference]:
    """Find the differences that mean refusal.

    A difference in a `NAME` counts unless the content of both is known and equal.

    Args:
        purpose: what the two are for.
        expected: a `Provenance`, or anything with attributes of the names that the table refuses for this purpose.
        obtained: the same of the other one.
    """
    content_hash: str | None = getattr(expected, "content_hash", None)
    named = content_hash is None or content_hash != getattr(obtained, "content_hash", None)
    meanings = (Meaning.REFUSED, Meaning.NAME) if named else (Meaning.REFUSED,)
    values = ((name, getattr(expected, name), getattr(obtained, name)) for name in fields(purpose, *meanings))
    return [Difference(*value) for value in values if value[1] != value[2]]


def conditions(reference: Provenance, candidate: Provenance) -> Iterator[str]:
    """Yield a sentence for each difference that a verdict reports.

    Such a difference may move a number and does not come from the candidate. Only libraries that both models need
    count: one that reads a model's format is part of that model.
    """
    for name in reversed(fields("comparing", Meaning.CONDITION)):  # libraries first
        before, after = getattr(reference, name), getattr(candidate, name)
        if isinstance(before, dict):
            values = [(key, before[key], after[key]) for key in sorted(before.keys() & after.keys())]
        else:
            values = [(name.replace("_", " "), before, after)]
        for what, expected, obtained in values:
            if expected != obtained:
                yield f"{what} {expected} for the reference, {obtained} for the candidate"


def release_differences(reference: Provenance, candidate: object) -> tuple[str, ...]:
    """Say why a released checkpoint is not the reference quantized.

    There is one sentence for each difference, none if it is the reference quantized.

    Args:
        reference: where the reference's measurement comes from.
        candidate: the loaded checkpoint, with the attributes that the table names for `release`.
    """
    differences = refusals("release", reference, candidate)
    return tuple(_HOW_A_RELEASE_DIFFERS[difference.field].format(**difference._asdict()) for difference in differences)


def identity(purpose: Purpose, provenance: Provenance) -> dict[str, Any]:
    """Collect the values that two must share for a purpose. Names are among them only if the content is not known."""
    names = () if provenance.content_hash is not None else (Meaning.NAME,)
    return {name: getattr(provenance, name) for name in fields(purpose, Meaning.REFUSED, *names)}
