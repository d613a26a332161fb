"""Profiles written by hand."""

import pytest

from pytest_quantcheck.profiles import read_profile

STRICT = """
schema = 1
name = "strict"
version = 1
description = "For tests."

[decision]
confidence = 0.9
inconclusive = "fail"

[metrics.kl_divergence]
max = 0.08
evidence = "measured"

[metrics.salient_overlap]
min = 0.45
evidence = "measured, too"

[[metrics.salient_overlap.override]]
bits = "int8"
layer = "last"
min = 0.7
evidence = "measured in the last block"
"""


@pytest.fixture
def strict():
    """A reader of the text above with replacements: `strict(("0.08", "0.07"))`."""

    def read(*replacements):
        text = STRICT
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new, 1)
        return read_profile(text.encode(), "strict.toml")

    return read
