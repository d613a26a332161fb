"""What a profile's file may say."""

from typing import get_args

import pytest

from pytest_quantcheck.bit_widths import BitWidth
from pytest_quantcheck.errors import ProfileError
from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.options import BIT_WIDTHS
from pytest_quantcheck.profiles import read_profile

HEAD = """
schema = 1
name = "strict"
version = 2
description = "For tests."

[decision]
confidence = 0.9
inconclusive = "fail"
"""

TEXT = f"""
{HEAD}
[metrics.ace_drift]
max = 0.25
evidence = "measured"

[metrics.salient_overlap]
min = 0.75
evidence = "measured"

[metrics.redundancy_change]
max = 0.02
evidence = "measured"

[[metrics.redundancy_change.override]]
bits = "int8"
max = 0.01
evidence = "measured"

[[metrics.redundancy_change.override]]
bits = "nf4"
layer = "last"
max = 0.05
evidence = "measured, too"
"""


def read(text):
    """The profile of a text."""
    return read_profile(text.encode(), "strict.toml")


def test_profile_holds_what_its_file_says():
    """Head, decision rule and limits are read as written."""
    profile = read(TEXT)
    assert (profile.label, profile.description, profile.path) == ("strict@2", "For tests.", "strict.toml")
    assert (profile.confidence, profile.inconclusive) == (0.9, "fail")
    assert profile.metrics == ("ace_drift", "salient_overlap", "redundancy_change")
    limit = profile.limit("redundancy_change", bits="nf4", layer=29, n_layers=30)
    assert (limit.value, limit.direction, limit.evidence) == (0.05, "max", "measured, too")
    assert limit.source == "strict@2 (bits=nf4, layer=last)"


BAD = {
    "not-toml": ("schema = 1", "schema = = 1", "is not TOML: .*line 3, column 10"),
    "schema-missing": ("schema = 1", "", "top level: .*missing required field `schema`"),
    "schema-2": ("schema = 1", "schema = 2", "schema: expected 1, .* got 2"),
    "name-blank": ("strict", " ", "name: expected a name"),
    "from-0": ("max = 0.25", "max = 0.25\nfrom_prompts = 0", "ace_drift.from_prompts: expected a number of .* got 0"),
    "from-1e9": (
        "max = 0.25",
        "max = 0.25\nfrom_prompts = 1000000000",
        "from_prompts: .* 1 to 1,000,000 .* got 1000000000",
    ),
    "version-0": ("version = 2", "version = 0", "version: expected a version from 1 up, got 0"),
    "version-text": ("version = 2", "version = '2'", "version: Expected `int`, got `str`"),
    "unknown-key": ("schema = 1", "schema = 1\ncolor = 1", "top level: .*unknown field `color`"),
    "confidence-1": ("= 0.9", "= 1.0", "decision.confidence: expected 0.5 to 0.9999, got 1.0"),
    "confidence-nan": ("= 0.9", "= nan", "decision.confidence: expected 0.5 to 0.9999, got nan"),
    "inconclusive": ('"fail"', '"ask"', "decision.inconclusive: expected one of fail, warn, point; got 'ask'"),
    "metric": ("ace_drift", "ace_drif", "metrics.ace_drif: expected a metric .*Did you mean 'ace_drift'"),
    "metric-no-table": ("[metrics.ace_drift]", "[metrics]\nflip_rate = 1", "metrics.flip_rate: Expected `object`, got"),
    "metric-key": ("max = 0.25", "limit = 1", "metrics.ace_drift: .*unknown field `limit`"),
    "limit-nan": ("0.25", "nan", "metrics.ace_drift.max: expected a finite .* got nan"),
    "limit-inf": ("0.25", "inf", "metrics.ace_drift.max: expected a finite .* got inf"),
    "limit-negative": ("0.25", "-0.1", "metrics.ace_drift.max: expected a limit .* got -0.1"),
    "limit-percent": ("0.25", "25", r"metrics.ace_drift.max: .* at most 0.999 .* got 25.0. Did you mean 0.25\?"),
    "limit-true": ("0.25", "true", r"metrics.ace_drift.max: Expected `float \| null`, got `bool`"),
    "limit-missing": ("max = 0.25", "", "metrics.ace_drift: expected max, the limit of ace_drift, found none"),
    "overlap-above-1": (
        "0.75",
        "1.1",
        "metrics.salient_overlap.min: expected a limit of at least 0.001 and at most 1 ",
    ),
    "overlap-0": ("0.75", "0", "metrics.salient_overlap.min: .* at least 0.001 .* got 0.0"),
    "overlap-of-hardly-0": ("0.75", "1e-320", "metrics.salient_overlap.min: .* at least 0.001 .* got 1e-320"),
    "divergence-of-guessing": (
        "metrics.ace_drift]\nmax = 0.25",
        "metrics.kl_divergence]\nmax = 100",
        "metrics.kl_divergence.max: expected a limit of at least 0 and at most 10 .* got 100.0",
    ),
    "min-for-max": ("max = 0.25", "min = 0.25", "metrics.ace_drift.min: ace_drift is limited by max"),
    "max-for-min": ("min = 0.75", "max = 0.75", "metrics.salient_overlap.max: salient_overlap is limited by min"),
    "max-and-min": ("max = 0.25", "max = 0.25\nmin = 0", "metrics.ace_drift.min: ace_drift is limited by max"),
    "evidence-missing": ('0.25\nevidence = "measured"', "0.25", "metrics.ace_drift: .*required field `evidence`"),
    "evidence-blank": ('0.25\nevidence = "measured"', "0.25\nevidence = ' '", "metrics.ace_drift.evidence: expected"),
    "override-key": ('bits = "int8"', "device = 0", r"change.override\[0\]: .*unknown field `device`"),
    "override-of-nothing": ('bits = "int8"', "", r"override\[0\]: expected at least one of bits, layer"),
    "override-bits": ('"int8"', '"int4"', r"override\[0\].bits: expected one of bf16, .*; got 'int4'"),
    "override-layer": ('"last"', '"top"', r"override\[1\].layer: expected one of a block number, first.* got 'top'"),
    "override-block": ('"last"', "-1", r"override\[1\].layer: expected a block counted from 0, got -1"),
    "override-limit": ("0.05", "-0.05", r"redundancy_change.override\[1\].max: expected a limit .* got -0.05"),
    "override-direction": ("max = 0.05", "min = 0.05", r"override\[1\].min: redundancy_change is limited by max"),
    "override-tie": ('bits = "nf4"', "", r"override\[1\]: has as many keys as .*override\[0\] .*neither wins"),
    "override-no-layers": (
        "[[metrics.redundancy_change",
        '[[metrics.ace_drift.override]]\nlayer = 0\nmax = 0.5\nevidence = "x"\n\n[[metrics.redundancy_change',
        r"metrics.ace_drift.override\[0\].layer: ace_drift has no layers",
    ),
}


@pytest.mark.parametrize(("old", "new", "message"), BAD.values(), ids=BAD)
def test_bad_profile_is_refused_with_the_place(old, new, message):
    """Each fault of a profile gets the file, the place within it and a sentence."""
    assert old in TEXT
    with pytest.raises(ProfileError, match=rf"^strict\.toml.*{message}"):
        read(TEXT.replace(old, new, 1))


def test_profile_without_metrics_is_refused():
    """A profile that limits nothing would pass everything."""
    with pytest.raises(ProfileError, match="metrics: expected a table for at least one metric"):
        read(f"{HEAD}[metrics]")


def test_bytes_that_are_no_text_are_refused():
    """A profile that is not UTF-8 is refused with the byte."""
    with pytest.raises(ProfileError, match=r"strict\.toml is not UTF-8: byte 1"):
        read_profile(b"#\xff", "strict.toml")


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_every_metric_can_be_limited(metric):
    """A profile can gate by each metric, on the side on which it fails."""
    table = f'[metrics.{metric.name}]\n{metric.direction} = 0.5\nevidence = "measured"'
    limit = read(HEAD + table).limit(metric.name, bits="int8")
    assert (limit.value, limit.direction) == (0.5, metric.direction)


def test_profiles_and_options_know_the_same_bit_widths():
    """An override can name exactly what the command line can ask for."""
    assert set(get_args(BitWidth)) == set(BIT_WIDTHS.values())
