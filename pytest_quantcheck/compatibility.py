"""One table: what a difference in each field of `Provenance` means, for each purpose."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import TYPE_CHECKING, Literal, NamedTuple

from pytest_quantcheck.serving import Difference, changes_function, configuration_differences

if TYPE_CHECKING:
    from pytest_quantcheck.records import Provenance

Purpose = Literal["comparing", "baseline", "cache", "merging"]
"""Comparing a candidate with its reference; taking a stored reference in place of one measured now; finding a
measurement in the cache; merging shards."""


class Meaning(Enum):
    """What a difference means.

    `REFUSED`: the two do not go together. `NAME`: the same, unless both have the same known content hash: a name says
    nothing about files whose content is known. `CONDITION`: the verdict reports it. `BY_NAME`: refused or reported, as
    `changes_function` says of each name in it. `NOTHING`: no part in this purpose, or it follows from fields that have
    one.
    """

    REFUSED = "refused"
    NAME = "name"
    CONDITION = "condition"
    BY_NAME = "by name"
    NOTHING = "nothing"


class Meanings(NamedTuple):
    """The meaning of a difference in one field, for each `Purpose`."""

    comparing: Meaning
    baseline: Meaning
    cache: Meaning
    merging: Meaning


X, NAME, COND, EACH, NO = Meaning.REFUSED, Meaning.NAME, Meaning.CONDITION, Meaning.BY_NAME, Meaning.NOTHING

# fmt: off
TABLE: dict[str, Meanings] = {
    #                            comparing  baseline  cache  merging
    "model":              Meanings(NO,       NO,       NO,    NAME),
    "bits":               Meanings(NO,       X,        X,     X),
    "revision":           Meanings(NO,       X,        NO,    NAME),
    "content_hash":       Meanings(NO,       X,        X,     X),
    "dtype":              Meanings(NO,       X,        X,     X),
    "format":             Meanings(NO,       NO,       NO,    X),
    "module_types":       Meanings(NO,       NO,       NO,    X),
    "quantization":       Meanings(NO,       NO,       NO,    X),
    "quantized_share":    Meanings(NO,       NO,       NO,    X),
    "outside_text":       Meanings(NO,       NO,       NO,    X),
    "gradient_path":      Meanings(NO,       NO,       NO,    X),
    "architecture":       Meanings(NO,       NO,       NO,    X),
    "n_layers":           Meanings(X,        NO,       NO,    X),
    "width":              Meanings(X,        NO,       NO,    X),
    "configuration":      Meanings(EACH,     NO,       NO,    X),
    "encoding_hash":      Meanings(X,        NO,       NO,    X),
    "prompt_set":         Meanings(X,        NO,       NO,    NO),
    "prompt_hash":        Meanings(X,        X,        X,     X),
    "template":           Meanings(X,        X,        NO,    X),
    "readout":            Meanings(X,        X,        X,     X),
    "layers":             Meanings(X,        X,        X,     X),
    "redundancy_neurons": Meanings(X,        NO,       X,     X),
    "attribution":        Meanings(X,        X,        X,     X),
    "continuation":       Meanings(X,        X,        X,     X),
    "seed":               Meanings(X,        X,        X,     X),
    "batch_size":         Meanings(COND,     NO,       X,     X),
    "shard":              Meanings(X,        X,        X,     NO),
    "device":             Meanings(COND,     NO,       X,     X),
    "libraries":          Meanings(COND,     NO,       X,     X),
}
# fmt: on
"""Fields that only a loaded model has are not known to the baseline and the cache beforehand: a baseline's are compared
when a candidate is, the cache's follow from the files, the options and the libraries."""


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
    by_name = [
        difference
        for name in fields(purpose, Meaning.BY_NAME)
        for difference in configuration_differences(getattr(expected, name), getattr(obtained, name))
        if changes_function(difference.field)
    ]
    return [part for value in values if value[1] != value[2] for part in _by_key(*value)] + by_name


def _by_key(name: str, expected: object, obtained: object) -> Iterator[Difference]:
    """Yield a difference; of two dictionaries, one for each key."""
    if isinstance(expected, dict) and isinstance(obtained, dict):
        for key in sorted(expected.keys() | obtained.keys()):
            if expected.get(key) != obtained.get(key):
                yield Difference(f"{name}.{key}", expected.get(key), obtained.get(key))
    else:
        yield Difference(name, expected, obtained)


def conditions(reference: Provenance, candidate: Provenance) -> Iterator[str]:
    """Yield a sentence for each difference that a verdict reports.

    Such a difference may move a number and does not come from the candidate. Only libraries that both models need
    count: one that reads a model's format is part of that model.
    """
    served = configuration_differences(reference.configuration, candidate.configuration)
    differences = [difference for difference in served if not changes_function(difference.field)]
    for name in reversed(fields("comparing", Meaning.CONDITION)):  # libraries first
        before, after = getattr(reference, name), getattr(candidate, name)
        if isinstance(before, dict):
            values = [Difference(key, before[key], after[key]) for key in sorted(before.keys() & after.keys())]
        else:
            values = [Difference(name.replace("_", " "), before, after)]
        differences += [value for value in values if value.expected != value.obtained]
    for what, expected, obtained in differences:
        yield f"{what} {expected} for the reference, {obtained} for the candidate"
