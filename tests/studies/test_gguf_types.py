"""The study behind the figures of GGUF files, reduced to the built-in model."""

import pytest

from pytest_quantcheck.prompts import read_prompts
from tests.models.gguf_files import spell_builtin
from tests.studies.gguf_types import study


@pytest.mark.slow
def test_fewer_bits_are_further_away(tmp_path):
    """Eight bits move the answers less than four; rounding to bf16 adds to what the type does."""
    plain = spell_builtin(tmp_path / "plain")
    found = dict(study(plain, read_prompts("builtin", samples=24), ("Q8_0", "Q4_0"), pre="gpt-2"))
    assert 0 < found["Q8_0"][0] < found["Q8_0"][1]
    assert all(fine < coarse for fine, coarse in zip(found["Q8_0"], found["Q4_0"], strict=True))
