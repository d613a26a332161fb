"""A profile in words, and what two profiles differ in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantcheck.profiles import Limit, Profile, Rule, load_profile, read_profile
from pytest_quantcheck.reporting.profile_description import TEXT_WIDTH, difference_lines, profile_lines

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


def test_a_profile_is_shown_in_full(strict):
    """Head, decision rule, and each limit with its side, its case and its evidence."""
    assert list(profile_lines(strict())) == [
        "strict@1",
        "strict.toml",
        "",
        "  For tests.",
        "",
        "decision: 90 % interval; where a limit lies inside it, the verdict is",
        "inconclusive and fails (inconclusive = fail)",
        "",
        "kl_divergence (KL divergence): fails above its limit",
        "  at most 0.08 nats, every case",
        "    measured",
        "",
        "salient_overlap (salient-neuron overlap): fails below its limit",
        "  at least 0.45, every other case",
        "    measured, too",
        "  at least 0.7, bits=int8, layer=last",
        "    measured in the last block",
    ]


def test_all_evidence_of_the_default_profile_is_shown_within_80_columns():
    """Not a word of it is lost, and no line is longer."""
    profile = load_profile("default@1")
    lines = list(profile_lines(profile))
    shown = " ".join(" ".join(lines).split())
    assert all(" ".join(rule.limit.evidence.split()) in shown for rule in profile.rules)
    assert max(map(len, lines)) <= TEXT_WIDTH


@given(st.text(min_size=1, max_size=300))
def test_no_text_breaks_the_lines_or_steers_the_terminal(text):
    """Whatever a file says is shown as lines of printable characters, no longer than 80."""
    limit = Limit(metric="flip_rate", value=0.1, direction="max", evidence=text, source="")
    rule = Rule(limit=limit, model=text)
    profile = Profile(
        name=text, version=1, description=text, confidence=0.9, inconclusive="fail", rules=(rule,), path=text
    )
    for line in [*profile_lines(profile), *difference_lines(profile, profile.with_limits([("flip_rate", 0.2)]))]:
        assert line.isprintable()
    assert max(map(len, profile_lines(profile))) <= TEXT_WIDTH


DIFFERENCES = [
    (("0.08", "0.07"), "metrics.kl_divergence.max: 0.08 -> 0.07"),
    (("0.7", "0.6"), "metrics.salient_overlap (bits=int8, layer=last).min: 0.7 -> 0.6"),
    (("= 0.9", "= 0.95"), "decision.confidence: 0.9 -> 0.95"),
    (('"fail"', '"point"'), "decision.inconclusive: fail -> point"),
    (("too", "again"), "metrics.salient_overlap: the same limit on other evidence"),
    (("For tests", "For nothing"), "description: changed"),
]


@pytest.mark.parametrize(("change", "line"), DIFFERENCES, ids=[line for _, line in DIFFERENCES])
def test_a_difference_is_one_line_with_both_values(strict, change, line):
    """Each thing that changed is named by its place in the file."""
    assert list(difference_lines(strict(), strict(change))) == [line]


def test_limits_that_came_and_went_are_named(strict):
    """A limit that one of the two does not have is added or removed, with its value."""
    old = strict()
    new = strict(("metrics.kl_divergence", "metrics.flip_rate"), ('layer = "last"\n', ""))
    assert list(difference_lines(old, new)) == [
        "metrics.kl_divergence: removed, max 0.08",
        "metrics.salient_overlap (bits=int8, layer=last): removed, min 0.7",
        "metrics.flip_rate: added, max 0.08",
        "metrics.salient_overlap (bits=int8): added, min 0.7",
    ]


def test_name_version_and_order_make_no_difference(strict):
    """Two versions that say the same differ in nothing."""
    renamed = strict(("strict", "lax"), ("version = 1", "version = 2"), ("0.08", "8e-2"))
    assert list(difference_lines(strict(), renamed)) == []
