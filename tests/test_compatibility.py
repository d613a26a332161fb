"""What a difference between two measurements or models means is said in one table, and said to users in full."""

from dataclasses import asdict
from types import SimpleNamespace
from typing import get_args

import msgspec
import pytest

from pytest_quantcheck.compatibility import (
    TABLE,
    Meaning,
    Meanings,
    Purpose,
    conditions,
    fields,
    refusals,
)
from pytest_quantcheck.records import Provenance
from tests.provenance import ANY

KNOWN = msgspec.structs.replace(ANY, content_hash="a" * 64)


def test_every_field_is_in_the_table_for_every_purpose():
    """A new field of `Provenance` needs a row, in the same place."""
    assert tuple(TABLE) == Provenance.__struct_fields__
    assert Meanings._fields == get_args(Purpose)
    assert {type(meaning) for row in TABLE.values() for meaning in row} == {Meaning}


@pytest.mark.parametrize("purpose", get_args(Purpose))
@pytest.mark.parametrize("name", [name for name in Provenance.__struct_fields__ if name != "configuration"])
def test_a_difference_means_what_the_table_says(purpose, name):
    """Of two with the same known content, each field that is refused and no other one is."""
    other = msgspec.structs.replace(KNOWN, **{name: "other"})
    refused = getattr(TABLE[name], purpose) is Meaning.REFUSED
    expected = [(name, getattr(KNOWN, name), "other")] if refused else []
    assert refusals(purpose, KNOWN, other) == expected


def test_of_dictionaries_the_parts_that_differ_are_named():
    """Of two with other libraries, the versions that differ; a dictionary against none is named as it is."""
    other = msgspec.structs.replace(KNOWN, libraries={"numpy": "2"}, quantization={})
    assert refusals("merging", KNOWN, other) == [("quantization", None, {}), ("libraries.numpy", None, "2")]


@pytest.mark.parametrize("name", ["model", "revision"])
def test_names_count_where_the_content_is_not_known(name):
    """They are all that tells one model from another then; known content of one side alone is refused itself."""
    other = msgspec.structs.replace(ANY, **{name: "other"})
    assert [one.field for one in refusals("merging", ANY, other)] == [name]
    assert [one.field for one in refusals("merging", KNOWN, other)] == sorted(
        [name, "content_hash"], key=list(TABLE).index
    )


def test_shards_of_a_measurement_in_the_cache_can_be_merged():
    """Only which shard it is, is part of the key and free in shards."""
    key = set(fields("cache", Meaning.REFUSED))
    assert key - set(fields("merging", Meaning.REFUSED)) == {"shard"}


def test_conditions_name_both_values():
    """Device, batch size and the versions of libraries that both need, libraries first."""
    reference = msgspec.structs.replace(ANY, libraries={"torch": "1", "numpy": "2", "gguf": "3"})
    candidate = msgspec.structs.replace(ANY, libraries={"numpy": "4", "torch": "5"}, device="cuda:0", batch_size=4)
    assert list(conditions(reference, candidate)) == [
        "numpy 2 for the reference, 4 for the candidate",
        "torch 1 for the reference, 5 for the candidate",
        "device cpu for the reference, cuda:0 for the candidate",
        "batch size 16 for the reference, 4 for the candidate",
    ]


def test_cache_key_has_each_field_that_the_table_names():
    """A field that a cached measurement must share is in the key, and no name is."""
    from pytest_quantcheck.measuring import Plan
    from pytest_quantcheck.models.files import resolve_files
    from pytest_quantcheck.models.source import Source
    from pytest_quantcheck.run.cache_key import cache_key

    key = cache_key(
        resolve_files(Source("builtin", device="cpu")), "int8", SimpleNamespace(hash="c"), Plan(), None, processor="cpu"
    )
    assert tuple(key["provenance"]) == fields("cache", Meaning.REFUSED)
    assert set(key["plan"]) == set(asdict(Plan())) - set(TABLE)
