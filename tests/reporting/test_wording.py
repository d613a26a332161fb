"""What the text of a verdict says."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantcheck.reporting.wording import ascii_only, failure_message, headline, number, printable


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.0000"),
        (0.05, "0.0500"),
        (0.07312345, "0.07312"),
        (0.00012345, "0.0001234"),
        (0.000099, "<0.0001"),
        (-0.000099, ">-0.0001"),
        (-0.1211, "-0.1211"),
        (0.99999, "1.0000"),
        (1.5, "1.500"),
        (1234.56, "1235"),
        (9999.9, "10000"),
        (123456.0, "1.235e+05"),
    ],
)
def test_number(value, text):
    """Four significant digits, four decimals at least below 1, no exponent where people do not expect one."""
    assert number(value) == text


@given(st.floats(1e-4, 9999.0))
def test_number_is_the_value(value):
    """What is shown is the value but for half a unit of its fourth significant digit, and has no exponent."""
    shown = number(value)
    assert "e" not in shown
    # Half a unit in the fourth significant digit is at most 0.05 % of the value; 1e-12 is for the float itself.
    assert math.isclose(float(shown), value, rel_tol=5e-4 + 1e-12)


def test_failed_verdict_says_all_facts(make):
    """The text has candidate, prompt set, value, interval, level, limit, source, both models, prompts and a step."""
    found = make.estimate(reference=0.217, candidate=0.2901)
    assert failure_message(make.verdict(found)).splitlines() == [
        "ACE drift of nf4 on boolq is above its limit",
        "  value      0.0731 (95 % interval 0.0512 to 0.0960)",
        "  meaning    how far the gap between confidence and accuracy moved",
        "  limit      at most 0.0500 (default@1)",
        "  reference  0.2170",
        "  candidate  0.2901",
        "  prompts    512 of boolq (paired bootstrap, 10000 draws)",
        "  next       release a higher bit-width; or, if the change is acceptable, say",
        "             so: --quantcheck-fail=ace_drift:LIMIT",
    ]


def test_layer_is_named(make):
    """A metric of one layer says which."""
    found = make.estimate("redundancy_change", layer=14)
    assert headline(make.verdict(found)) == "redundancy change of nf4 on boolq at layer 14 is above its limit"


def test_lower_limit_fails_below(make):
    """An overlap is too low, not too high, and its limit is the least that is good."""
    text = failure_message(make.verdict(make.estimate("salient_overlap", 0.3, 0.2, 0.4, layer=29)))
    assert "is below its limit" in text
    assert "at least 0.5000" in text


def test_unit_follows_the_value(make):
    """A value with a unit says it."""
    assert "value      0.0731 nats (95 %" in failure_message(make.verdict(make.estimate("kl_divergence")))


def test_level_of_the_interval_is_said(make):
    """An interval of another level is not called a 95 % interval."""
    assert "(99.9 % interval" in failure_message(make.verdict(make.estimate(confidence=0.999)))


def test_value_without_an_interval_says_so(make):
    """A missing interval is said, not left out."""
    assert "value      0.0731 (no interval)" in failure_message(make.verdict(make.estimate(low=None, high=None)))


def test_limit_from_an_option_names_the_profile_too(make):
    """A limit that did not come from the profile says where it came from, and the profile is still named."""
    text = failure_message(make.verdict(limit_source="--quantcheck-fail"))
    assert "limit      at most 0.0500 (--quantcheck-fail; profile default@1)" in text


def test_tiny_limit_is_written_out(make):
    """A limit can be smaller than the smallest number that is shown, and is then still exact."""
    assert "at most 5e-05 (" in failure_message(make.verdict(limit=5e-5))


def test_inconclusive_says_how_many_prompts_settle_it(make):
    """The next step of an inconclusive verdict is a number of prompts and the option for it."""
    text = failure_message(make.verdict(status="inconclusive", prompts_needed=2100))
    assert text.startswith("512 prompts are too few to say whether ACE drift of nf4 on boolq is within its limit\n")
    assert "about 2,100 prompts would settle it" in text
    assert "--quantcheck-samples=2100" in text


@pytest.mark.parametrize(
    ("available", "step"),
    [
        (10_000, "boolq cannot settle it: it has 10,000 prompts, and about 62,078 would be needed; add a larger set"),
        (62_078, "about 62,078 prompts would settle it: --quantcheck-samples=62078"),
        (None, "about 62,078 prompts would settle it: add prompts, and --quantcheck-samples=62078"),
    ],
)
def test_set_that_is_too_small_is_said(make, available, step):
    """A number that the source does not have is no advice."""
    doubt = make.verdict(status="inconclusive", prompts_needed=62_078, prompts_available=available)
    assert step in " ".join(failure_message(doubt).split())


def test_overlap_needs_attributed_prompts(make):
    """More prompts for the overlap means more attributions, which have an option of their own."""
    found = make.estimate("salient_overlap", layer=14, n_prompts=64)
    text = failure_message(make.verdict(found, "inconclusive", prompts_needed=900))
    assert "--quantcheck-attribution-samples=900" in text


def test_unknown_number_of_prompts_is_not_invented(make):
    """Where no number of prompts is known, none is said."""
    text = failure_message(make.verdict(status="inconclusive"))
    assert "would settle it" in " ".join(text.split())
    assert "about" not in text


@pytest.mark.parametrize(
    ("status", "outcome"),
    [("inconclusive", "it passes with a warning"), ("unmeasured", "it passes, as this metric may be unmeasured")],
)
def test_acceptable_doubt_says_why_it_passes(status, outcome, make):
    """A verdict that passes and is not `passed` says why."""
    text = failure_message(make.verdict(status=status, acceptable=True))
    assert f"outcome    {outcome}" in text


def test_unmeasured_gives_the_reason(make):
    """What could not be measured says why, and how to let it pass."""
    found = make.unmeasured("salient_overlap", "3 of 64 attributions converged", layer=14)
    text = failure_message(make.verdict(found, "unmeasured"))
    assert "salient-neuron overlap of nf4 on boolq at layer 14 could not be measured\n  value      none\n" in text
    assert "reason     3 of 64 attributions converged" in text
    assert "--quantcheck-allow-unmeasured=salient_overlap" in text


def test_no_method_leaves_no_empty_brackets(make):
    """Where no layer was left to be estimated there is no method to name."""
    text = failure_message(make.verdict(make.unmeasured("salient_overlap", "none is left", method=""), "unmeasured"))
    assert "\n  prompts    512 of boolq\n" in text


def test_passed_verdict_asks_for_nothing(make):
    """A verdict that passed says so and has no next step."""
    text = failure_message(make.verdict(status="passed"))
    assert text.startswith("ACE drift of nf4 on boolq is within its limit\n")
    assert "next" not in text


def test_facts_fit_a_terminal(make):
    """However long a reason is, no line of facts is longer than 79 characters."""
    found = make.unmeasured("ace_drift", "because " * 60)
    lines = failure_message(make.verdict(found, "unmeasured")).splitlines()[1:]
    assert max(map(len, lines)) <= 79
    assert sum(line.count("because") for line in lines) == 60


def test_names_cannot_steer_the_terminal(make):
    """Line breaks, escape sequences and direction marks in names and reasons are written, not obeyed."""
    hostile = "a\x1b[2J\u202e\nb\ud800"
    found = make.unmeasured("ace_drift", hostile)
    text = failure_message(make.verdict(found, "unmeasured", candidate=hostile, prompt_set=hostile))
    assert text.replace("\n", "").isprintable()
    assert r"ACE drift of a\x1b[2J\u202e b\ud800 on " in text.splitlines()[0]


@given(st.text())
def test_ascii_text_is_printable_ascii(text):
    """Every text becomes one line that every stream can encode."""
    assert ascii_only(text).isascii()
    assert ascii_only(text).isprintable()


def test_letters_of_any_language_stay():
    """A message keeps the names that people gave."""
    assert printable("größe 問題") == "größe 問題"
