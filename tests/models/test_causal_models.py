"""What the reference says of each type of causal language model is what a gate makes of a tiny one."""

import tomllib

import pytest
import transformers

from tests.causal_models import FOUND, TYPES, describe

RECORDED = tomllib.loads(FOUND.read_text(encoding="utf-8"))
NAMED = ("bloom", "mpt", "falcon", "starcoder2", "gpt_bigcode", "nemotron", "cohere", "glm", "ernie4_5")


def check(kind, tokenizer, tmp_path):
    """Each is made, saved, loaded at both bit-widths and at full precision, and run."""
    if kind not in RECORDED["types"] and transformers.__version__ != RECORDED["transformers"]:
        pytest.skip(f"recorded for transformers {RECORDED['transformers']}")
    assert describe(kind, tokenizer, tmp_path)._asdict() == RECORDED["types"][kind]


@pytest.mark.parametrize("kind", NAMED)
def test_common_type_is_gated_whole(tokenizer, tmp_path, kind):
    """Those that people release most."""
    assert RECORDED["types"][kind]["gated"] == "whole"
    check(kind, tokenizer, tmp_path)


@pytest.mark.ci
@pytest.mark.parametrize("kind", sorted(set(TYPES) - set(NAMED)))
def test_type_is_gated_as_recorded(tokenizer, tmp_path, kind):
    """Every other one of transformers' own list."""
    check(kind, tokenizer, tmp_path)
