"""What is written is what is read."""

import tomllib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.profiles import Limit, Profile, Rule, load_profile, read_profile
from pytest_quantcheck.profiles.writing import profile_text, toml_string

ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
SAID = ANY.filter(str.strip)
LIMITS = st.floats(0.001, 0.999)  # of every metric


def rule(metric, value, evidence, label, **case):
    """One limit of one metric, with the source that reading gives it."""
    named = ", ".join(f"{key}={word}" for key, word in case.items())
    limit = Limit(
        metric=metric,
        value=value,
        direction=METRICS[metric].direction,
        evidence=evidence,
        source=f"{label} ({named})" if case else label,
        from_prompts=len(evidence),
    )
    return Rule(limit=limit, **case)


@st.composite
def profiles(draw):
    """Profiles of a few metrics, some with an override."""
    name, version = draw(SAID), draw(st.integers(1, 10**9))
    label, rules = f"{name}@{version}", []
    for metric in draw(st.lists(st.sampled_from(list(METRICS)), min_size=1, unique=True)):
        rules.append(rule(metric, draw(LIMITS), draw(SAID), label))
        if draw(st.booleans()):
            case = {"bits": "int8", "model": draw(ANY)} | ({"layer": 3} if METRICS[metric].layered else {})
            order = {key: case[key] for key in ("bits", "layer", "model") if key in case}
            rules.append(rule(metric, draw(LIMITS), draw(SAID), label, **order))
    return Profile(
        name=name,
        version=version,
        description=draw(ANY),
        confidence=draw(st.floats(0.5, 0.9999)),
        inconclusive=draw(st.sampled_from(["fail", "warn", "point"])),
        rules=tuple(rules),
        path="written.toml",
    )


@given(profiles())
def test_a_profile_reads_back_as_it_was(profile):
    """Names, texts, limits to the last bit, overrides and the decision rule survive the file."""
    assert read_profile(profile_text(profile).encode(), "written.toml") == profile


def test_the_default_profile_can_be_written():
    """A real profile, with its long texts, survives it too."""
    profile = load_profile("default@1")
    assert read_profile(profile_text(profile).encode(), profile.path) == profile


@given(ANY | st.text(st.sampled_from('\\" \n\t\r\x00\x7f\u2028\U0001f600'), max_size=300))
@example(" \t leading and trailing \n" * 20)
@example('"""' * 100)
@example("\\" * 301)
@example("word \n\r\n  word " * 30)
def test_a_string_reads_back_as_it_was(text):
    """Quotes, backslashes, blanks at either end, line ends and controls, in short texts and long ones."""
    assert tomllib.loads(f"text = {toml_string(text)}") == {"text": text}


@given(st.text(max_size=300))
def test_a_string_has_no_character_that_an_editor_hides(text):
    """What is not printable is written as an escape, and only long texts have more than one line."""
    assert all(line.isprintable() for line in toml_string(text).split("\n"))


def test_long_texts_are_broken_between_words():
    """A file that people review has lines they can read."""
    assert max(map(len, toml_string("evidence " * 100).split("\n"))) <= 120


@pytest.mark.parametrize("text", ["model-\udce9", "\ud800" * 200])
def test_half_a_character_is_written_as_an_escape(text):
    """A path that could not be decoded is no reason to lose a calibration."""
    read = tomllib.loads(f"text = {toml_string(text)}")["text"]
    assert read == text.encode("utf-8", "backslashreplace").decode()
