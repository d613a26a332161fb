"""A candidate that is another model than its reference is told so, in every respect that differs."""

import dataclasses

import msgspec
import pytest

from pytest_quantcheck.models.loading import load
from pytest_quantcheck.models.sameness import differences
from pytest_quantcheck.models.source import Source
from tests.provenance import ANY


@pytest.fixture(scope="module")
def loaded():
    """The built-in model."""
    with load(Source("builtin", device="cpu")) as model:
        yield model


@pytest.fixture(scope="module")
def reference(loaded):
    """What a measurement says of it."""
    fields = ("n_layers", "width", "vocabulary_hash", "chat_template_hash")
    return msgspec.structs.replace(ANY, **{name: getattr(loaded, name) for name in fields})


def test_same_model_has_no_differences(reference, loaded):
    """Whatever its format and float format."""
    assert differences(reference, dataclasses.replace(loaded, bits="released", format="gptq 4 bit", dtype="fp16")) == ()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"vocabulary_hash": "a" * 64},
            "its vocabulary is another (SHA-256 {vocabulary_hash:.12}…, the reference's aaaa",
        ),
        ({"chat_template_hash": "b" * 64}, "its chat template is another (SHA-256 {chat_template_hash:.12}…, the ref"),
        ({"n_layers": 7}, "it has 6 layers, the reference 7"),
        ({"width": 64}, "its hidden states are 128 wide, the reference's 64"),
    ],
)
def test_each_difference_is_named_with_both_values(reference, loaded, changes, says):
    """One sentence for each."""
    (found,) = differences(msgspec.structs.replace(reference, **changes), loaded)
    assert found.startswith(says.format(**vars(loaded)))


def test_all_differences_are_named_at_once(loaded):
    """Nobody has to mend one to hear of the next."""
    assert len(differences(msgspec.structs.replace(ANY, width=1), loaded)) == 4
