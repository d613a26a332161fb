"""A comparison says which share of the candidate is quantized."""

import dataclasses

import msgspec
import pytest

from pytest_quantcheck.comparing import compare
from pytest_quantcheck.records import QuantizedShare

ROWS = {"model.layers.*.mlp.experts.up": 800, "lm_head": 100, "norm": 1}


def notes(reference, candidate, sampling, **changes):
    """The notes of a comparison with a candidate whose provenance holds another share."""
    share = {"parameters": 1000, "quantized": 99, "bytes": 2000, "quantized_bytes": 100, "largest_plain": ROWS}
    share |= {"block_parameters": 899, "block_quantized": 99} | changes
    provenance = msgspec.structs.replace(candidate.provenance, quantized_share=QuantizedShare(**share))
    return compare(reference, dataclasses.replace(candidate, provenance=provenance), sampling).notes


def test_share_and_largest_parts_are_named(reference, candidate, sampling):
    """Parts below half a percent are not, and bytes only where they are known."""
    found = notes(reference, candidate, sampling)
    rest = "not quantized: model.layers.*.mlp.experts.up (80%), lm_head (10%)"
    assert f"10% of the weights are quantized, 5% of the bytes; {rest}" in found
    found = notes(reference, candidate, sampling, bytes=None, quantized_bytes=None)
    assert f"10% of the weights are quantized; {rest}" in found


@pytest.mark.parametrize(("quantized", "warned"), [(449, True), (450, False)])
def test_less_than_half_of_the_blocks_is_a_warning(reference, candidate, sampling, quantized, warned):
    """The other half is the reference's own."""
    found = notes(reference, candidate, sampling, block_quantized=quantized)
    says = "warning: less than half of the weights of the blocks are quantized (50%)"
    assert any(note.startswith(says) for note in found) is warned


def test_what_is_not_quantized_says_nothing(reference, candidate, sampling):
    """As of a control."""
    provenance = msgspec.structs.replace(candidate.provenance, quantized_share=None)
    found = compare(reference, dataclasses.replace(candidate, provenance=provenance), sampling).notes
    assert not any("quantized" in note for note in found)


def test_parts_that_text_does_not_reach_are_named(reference, candidate, sampling):
    """A vision tower was not measured, whatever the verdict."""
    provenance = msgspec.structs.replace(
        candidate.provenance, outside_text={"model.vision_tower": 1200, "projector": 8}
    )
    found = compare(reference, dataclasses.replace(candidate, provenance=provenance), sampling).notes
    told = "not measured, because prompts are text: model.vision_tower (1,200 weights) and projector (8 weights)"
    assert told in found
    assert not any("not measured" in note for note in compare(reference, candidate, sampling).notes)
