"""The rows of the formats fit together, and everything that depends on a format reads them."""

import pytest

from pytest_quantcheck.bit_widths import WIDTHS
from pytest_quantcheck.models.formats import FORMATS, LAYERS
from pytest_quantcheck.models.formats.bitsandbytes import quantization_config
from pytest_quantcheck.run.cache_key import KEYED_PACKAGES


@pytest.mark.parametrize("one", FORMATS, ids=lambda one: one.method or one.file.suffix)
def test_row_is_consistent(one):
    """A format is found by one thing, and only packages that it needs enter the cache key."""
    assert bool(one.method) != bool(one.file)
    assert set(one.libraries) <= set(one.packages)
    assert set(one.libraries) <= set(KEYED_PACKAGES)
    assert set(one.layers) <= set(LAYERS)


def test_names_are_unique():
    """A method means one format, and a gradient path one kind of layer."""
    methods = [one.method for one in FORMATS if one.method]
    assert len({*methods}) == len(methods)
    assert len({layer.name for layer in LAYERS}) == len(LAYERS)


@pytest.mark.parametrize("name", [name for name, width in WIDTHS.items() if not width.dtype])
def test_bit_width_is_what_transformers_takes(name):
    """Every argument of the table arrives in the configuration."""
    config = quantization_config(name, "bfloat16").to_dict()
    assert {key: config[key] for key in WIDTHS[name].quantization} == WIDTHS[name].quantization
