"""The cache key holds all that decides a measurement's numbers: with any of it changed, the key is another."""

from dataclasses import fields, replace

import pytest

from pytest_quantcheck.measuring import Plan
from pytest_quantcheck.models.files import resolve_files
from pytest_quantcheck.models.source import Source
from pytest_quantcheck.options import AttributionMethod
from pytest_quantcheck.prompts import read_prompts
from pytest_quantcheck.run.cache_key import cache_key

PLANS = {
    "layers": (1,),
    "readout": "choices",
    "attribution": AttributionMethod("off"),
    "samples": 5,
    "tokens": 512,
    "continuation": 4,
    "batch_size": 4,
    "shard_size": 8,
    "shard": (1, 2),
    "shuffle": 1,
    "seed": 1,
    "redundancy_neurons": 64,
}
SOURCES = {"dtype": "fp32", "neurons": "model.layers.{}.mlp.act_fn"}


def key(bits="reference", *, samples=12, plan=None, processor="cpu AVX2", **source):
    """A key for the built-in model."""
    files = resolve_files(Source("builtin", device="cpu", **source))
    return cache_key(files, bits, read_prompts("builtin", samples=samples), plan or Plan(), None, processor=processor)


def test_every_field_of_a_plan_is_tried():
    """A field that is added is added here."""
    assert sorted(PLANS) == sorted(field.name for field in fields(Plan))


@pytest.mark.parametrize("name", PLANS)
def test_another_plan_has_another_key(name):
    """Each setting of a measurement."""
    assert key(plan=replace(Plan(), **{name: PLANS[name]})) != key()


@pytest.mark.parametrize("name", SOURCES)
def test_another_way_of_loading_has_another_key(name):
    """The precision, and which modules are taken for neurons."""
    assert key(**{name: SOURCES[name]}) != key()


def test_other_bits_and_prompts_have_another_key():
    """So that the key is one of a model on its prompts."""
    assert key("int8") != key() != key(samples=11)


def test_equal_settings_have_one_key():
    """Nothing in it is different each time."""
    assert key() == key()


def test_another_kind_of_processor_has_another_key():
    """The last bits of a measurement differ."""
    assert key(processor="cpu AVX512") != key()
