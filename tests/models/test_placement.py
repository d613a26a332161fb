"""A model whose weights are partly on disk measures what it does in memory, to the last bit."""

import tempfile

import pytest
import torch

from pytest_quantcheck.errors import ModelError
from pytest_quantcheck.measuring import Plan, measure
from pytest_quantcheck.models import builtin
from pytest_quantcheck.models.loading import load
from pytest_quantcheck.models.placement import fetched_share
from pytest_quantcheck.models.source import Source
from pytest_quantcheck.prompts import read_prompts
from tests.bits import bits_of
from tests.upcycled import upcycle

SMALL = (("cpu", 2_000_000),)
"""Holds the embedding and some blocks of the built-in model, of 2.7 MB in bf16."""

PLAN = Plan(layers=(2, 5), samples=4, batch_size=8, continuation=3)


@pytest.fixture(scope="module")
def prompts():
    """Twelve of the built-in ones."""
    return read_prompts("builtin", samples=12)


@pytest.fixture
def found(prompts):
    """Measures a model, in memory or with little of it; gives every bit, and whether weights were on disk."""

    def measured(model, load_as="reference", **arguments):
        with load(Source(str(model), device="auto", **arguments), load_as) as loaded:
            on_disk = fetched_share(loaded.model) > 0
            return bits_of(measure(loaded, prompts, PLAN, model="model")), on_disk

    return measured


@pytest.fixture
def mixture(tmp_path):
    """The built-in model as a mixture of four experts, whose files hold each on its own."""
    return upcycle(builtin.DIRECTORY, tmp_path / "mixture", experts=4, noise=0.3)


@pytest.mark.parametrize("load_as", ["reference", "fp32", "fp16"])
def test_weights_on_disk_give_the_same_numbers(found, load_as):
    """In the files' own format, and cast to another."""
    expected, on_disk = found("builtin", load_as)
    assert not on_disk
    assert found("builtin", load_as, max_memory=SMALL) == (expected, True)


def test_experts_on_disk_give_the_same_numbers(found, mixture):
    """The model holds them as one parameter, which is written for it."""
    room = (("cpu", 4_000_000),)
    assert found(mixture, max_memory=room) == (found(mixture)[0], True)


def test_files_are_there_as_long_as_the_model(tmp_path, monkeypatch):
    """The links to them are deleted with it; so is what was written for it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with load(Source("builtin", max_memory=SMALL)) as loaded:
        assert list(tmp_path.iterdir())
        loaded.model(torch.tensor([[1, 2, 3]]))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("load_as", "room", "said"),
    [
        (
            "reference",
            {"cpu": 100_000},
            r"model\.layers\.\d alone takes 0\.\d MB, and weights may take 0\.1 MB of cpu: give",
        ),
        (
            "reference",
            {"cpu": 2_000_000, "cuda:7": 1},
            r"--quantcheck-max-memory names cuda:7, and torch .+ sees cpu here",
        ),
        ("int8", {"cpu": 1_000_000}, r"as int8 takes 1\.\d MB, and .+ 0\.9 MB, and quantized weights are not read"),
        ("nf4", {"cpu": 600_000}, r"as nf4 takes 0\.\d MB, and .+ 0\.5 MB, and quantized weights are not read"),
    ],
)
def test_what_cannot_be_placed_is_refused(load_as, room, said):
    """Before a weight is read."""
    with pytest.raises(ModelError, match=said):
        load(Source("builtin", max_memory=tuple(room.items())), load_as)


def test_quantized_model_that_fits_is_not_on_disk(found):
    """Its numbers are those of any other place."""
    assert found("builtin", "int8", max_memory=(("cpu", 10_000_000),)) == found("builtin", "int8")
