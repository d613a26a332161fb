"""Which limit a profile gives in which case."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantcheck.errors import ProfileError
from pytest_quantcheck.profiles import read_profile
from pytest_quantcheck.profiles.profile import block_name

HEAD = """
schema = 1
name = "strict"
version = 2
description = "For tests."

[decision]
confidence = 0.9
inconclusive = "fail"
"""
REDUNDANCY = """
[metrics.redundancy_change]
max = 0.02
evidence = "measured"
"""


def override(limit, **keys):
    """The TOML of one override of the redundancy limit."""
    pairs = {"max": limit, "evidence": "measured, too", **keys}
    body = "\n".join(f"{key} = {value!r}" for key, value in pairs.items())
    return f"[[metrics.redundancy_change.override]]\n{body}\n"


def read(*parts):
    """The profile that these pieces of TOML make."""
    return read_profile("\n".join(parts).encode(), "strict.toml")


def test_metric_without_a_table_is_not_gated():
    """A profile gives no limit for a metric it does not name."""
    assert read(HEAD, REDUNDANCY).limit("ace_drift", bits="int8") is None


def test_asking_for_an_unknown_metric_is_an_error():
    """A mistyped metric must not look like one that is not gated."""
    with pytest.raises(ValueError, match="Did you mean 'ace_drift'"):
        read(HEAD, REDUNDANCY).limit("ace_drfit", bits="int8")


def test_layer_needs_the_number_of_layers():
    """Without the number of blocks none is known to be the last, so the question is refused."""
    with pytest.raises(ValueError, match="expected n_layers"):
        read(HEAD, REDUNDANCY).limit("redundancy_change", bits="int8", layer=3)


@pytest.mark.parametrize(
    ("n_layers", "names"),
    [(1, ["first"]), (2, ["first", "last"]), (3, ["first", "middle", "last"]), (4, ["first", "middle", None, "last"])],
)
def test_each_block_has_one_name(n_layers, names):
    """Middle is block (L-1)//2; in a model with fewer than three blocks first goes before last before middle."""
    assert [block_name(layer, n_layers) for layer in range(n_layers)] == names


KEYS = st.fixed_dictionaries(
    {},
    optional={
        "bits": st.sampled_from(["int8", "nf4"]),
        "layer": st.sampled_from([0, 2, 4, "first", "middle", "last"]),
        "model": st.sampled_from(["m", "n"]),
        "prompts": st.sampled_from(["p", "q"]),
    },
).filter(bool)
N_LAYERS = 5
CASES = [
    {"bits": bits, "layer": layer, "model": model, "prompts": prompts}
    for bits, layer, model, prompts in itertools.product(["int8", "nf4"], range(N_LAYERS), ["m", "n"], ["p", "q"])
]
LAYERS = {"first": 0, "middle": 2, "last": 4}


def matches(keys, case):
    """The oracle: every key that is set agrees with the case."""
    numbered = {**keys, "layer": LAYERS.get(keys.get("layer"), keys.get("layer", case["layer"]))}
    return all(case[key] == value for key, value in numbered.items())


BLOCKS = {(layer, block_name(layer, n)) for n in range(1, 12) for layer in range(n)}


def can_tie(one, two):
    """The oracle: as many keys, and some case of some model that agrees with both."""
    shared = (one.keys() & two.keys()) - {"layer"}
    block_of_both = any(all(keys.get("layer", block[0]) in block for keys in (one, two)) for block in BLOCKS)
    return len(one) == len(two) and all(one[key] == two[key] for key in shared) and block_of_both


def unambiguous(overrides):
    """Whether no two of these overrides can tie."""
    return not any(can_tie(one, two) for one, two in itertools.combinations(overrides, 2))


@given(st.lists(KEYS, max_size=4).filter(unambiguous))
def test_most_specific_limit_wins(overrides):
    """For every case the limit is that of the matching override with the most keys, as found by trying all."""
    limits = {number / 10: keys for number, keys in enumerate(overrides, start=1)}
    profile = read(HEAD, REDUNDANCY, *(override(limit, **keys) for limit, keys in limits.items()))
    for case in CASES:
        matching = [limit for limit, keys in limits.items() if matches(keys, case)]
        expected = max(matching, key=lambda limit: len(limits[limit]), default=0.02)
        assert profile.limit("redundancy_change", n_layers=N_LAYERS, **case).value == expected


@given(KEYS, KEYS)
def test_two_overrides_are_refused_exactly_when_they_can_tie(one, two):
    """Two overrides with as many keys are an error if some case, of a model of any depth, matches both."""
    parts = (HEAD, REDUNDANCY, override(0.1, **one), override(0.2, **two))
    if can_tie(one, two):
        with pytest.raises(ProfileError, match="so neither wins"):
            read(*parts)
    else:
        assert len(read(*parts).rules) == 3


def test_layer_override_does_not_touch_a_question_without_layer():
    """A limit for one layer is not the limit of the metric as a whole."""
    profile = read(HEAD, REDUNDANCY, override(0.5, layer="first"))
    assert profile.limit("redundancy_change", bits="int8").value == 0.02


def test_given_limits_replace_all_of_their_metric():
    """A limit from the command line holds in every case, gates a metric that was not, and leaves others alone."""
    ace = '[metrics.ace_drift]\nmax = 0.5\nevidence = "measured"\n'
    profile = read(HEAD, REDUNDANCY, override(0.05, bits="nf4"), ace)
    changed = profile.with_limits([("redundancy_change", 0.3), ("salient_overlap", 0.9)])
    assert {changed.limit("redundancy_change", bits=bits).value for bits in ("nf4", "int8")} == {0.3}
    overlap = changed.limit("salient_overlap", bits="nf4")
    assert (overlap.value, overlap.direction, overlap.source) == (0.9, "min", "--quantcheck-fail")
    assert changed.limit("ace_drift", bits="nf4") == profile.limit("ace_drift", bits="nf4")
    assert profile.limit("redundancy_change", bits="nf4").value == 0.05


@pytest.mark.parametrize(
    "pair", [("ace", 0.1), ("ace_drift", float("nan")), ("salient_overlap", 1.5), ("flip_rate", 5)]
)
def test_given_limits_are_checked(pair):
    """A limit from elsewhere is held to the same rule as one from a file."""
    with pytest.raises(ProfileError, match=r"^mine: "):
        read(HEAD, REDUNDANCY).with_limits([pair], source="mine")
