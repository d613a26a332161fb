"""What it means that two models' configurations differ: another function, or another service."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.text import excerpt

GENERATION_CONFIG = "generation_config.json"
"""A file whose absence is a difference of its own; so it is called in `Provenance.configuration`."""

_OF_NO_EFFECT = ("pad_token_id", "tokenizer.bos_token_id", "tokenizer.unk_token_id")
"""Token ids that change nothing where the reference has none: batches are padded, `add_bos_token` says whether a prompt
begins with one, and nothing is unknown to such a tokenizer."""

_SERVING_ALONE = {"config.architectures", "config.max_position_embeddings", "config.tie_word_embeddings"}
"""Fields of config.json, token ids aside, that decide how a model is served, or what a measurement sees in full."""


class Difference(NamedTuple):
    """One field in which two models or measurements differ, and both values."""

    field: str
    expected: Any
    obtained: Any


def configuration_differences(reference: Mapping[str, str], candidate: Mapping[str, str]) -> Iterator[Difference]:
    """Yield the fields of two configurations that both state, and state differently.

    A part of an object that one of two directories lacks is null there; a GGUF file does not state all it could, and a
    text model alone nothing of its multimodal wrapper. Of a missing generation_config.json only its absence counts, and
    only where the reference has one: libraries write one that repeats config.json.
    """
    without_file = candidate.get(GENERATION_CONFIG) == "missing"
    names = reference.keys() & candidate.keys()
    if GENERATION_CONFIG in names:  # two directories
        names |= {
            name
            for name in reference.keys() | candidate.keys()
            if name.count(".") > 1 and not name.startswith("wrapper.")
        }
    for name in sorted(names):
        expected, obtained = reference.get(name, "null"), candidate.get(name, "null")
        if expected == obtained or (name, expected) == (GENERATION_CONFIG, "missing"):
            continue
        if expected == "null" and name.endswith(_OF_NO_EFFECT):
            continue
        if not (without_file and name.startswith("generation_config.") and name != GENERATION_CONFIG):
            yield Difference(name, excerpt(expected, obtained), excerpt(obtained, expected))


def changes_function(field: str) -> bool:
    """Tell whether a field of a configuration decides what the model computes.

    Others decide how it is served: when it stops, how it samples and what it is given.
    """
    if field == "tokenizer.vocabulary":
        return True
    return field.startswith("config.") and not field.endswith("_token_id") and field not in _SERVING_ALONE


def refuse_unlike(
    label: str, reference: Mapping[str, str], candidate: Mapping[str, str], allowed: Collection[str] = ()
) -> None:
    """Refuse a released checkpoint that is not the reference quantized.

    Args:
        label: what messages call the checkpoint.
        reference: the reference's configuration, as `Provenance` has it.
        candidate: the checkpoint's.
        allowed: fields in which it may be served otherwise.

    Raises:
        ModelError: names each field in which it computes or is served otherwise, with both values.
    """
    differences = [one for one in configuration_differences(reference, candidate) if one.field not in allowed]
    told = "; ".join(f"{one.field} is {one.obtained}, the reference's {one.expected}" for one in differences)
    if any(changes_function(one.field) for one in differences):
        raise ModelError(
            f"{label} is not the reference quantized: {told}. Compare the checkpoint with what it was made from, or "
            "name another reference."
        )
    if differences:
        options = " ".join(f"--quantcheck-allow-difference={one.field}" for one in differences)
        raise ModelError(
            f"{label} would not be served as the reference is: {told}. Release it with the reference's files, or say "
            f"that it is meant: {options}"
        )
