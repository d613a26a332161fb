"""From comparisons of controls to a profile."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantcheck.errors import MeasurementError
from pytest_quantcheck.judging import judge
from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.profiles import read_profile
from pytest_quantcheck.profiles.calibrating import draft_profile
from pytest_quantcheck.profiles.calibrating.derivation import derive_limits
from tests.profiles.calibrating.conftest import comparison, estimate


def read(harmless, damaged=(), *, rate=0.01, name="mine"):
    """The profile that is made of these."""
    return read_profile(draft_profile(harmless, damaged, name=name, version=1, rate=rate).encode(), "mine.toml")


HARMLESS = [
    comparison("null-batches", estimate("kl_divergence", 0.0), estimate("salient_overlap", 1.0, layer=3)),
    comparison(
        "null-dtype",
        estimate("kl_divergence", 0.001, 0.0009, 0.0011),
        estimate("salient_overlap", 0.95, 0.93, 0.97, layer=3),
        estimate("salient_overlap", 0.97, 0.96, 0.98, layer=6),
    ),
]
DAMAGED = [
    comparison(
        "three-bits",
        estimate("kl_divergence", 0.3, 0.25, 0.35),
        estimate("salient_overlap", 0.4, 0.35, 0.45, layer=3),
        estimate("salient_overlap", 0.9, 0.8, 0.99, layer=6),
    ),
    comparison("two-bit-layer", estimate("kl_divergence", 0.1, 0.08, 0.12), estimate("salient_overlap", None, layer=3)),
    comparison(
        "sharpened-logits",
        estimate("kl_divergence", 0.0012, 0.001, 0.0014),
        estimate("salient_overlap", 0.94, 0.92, 0.96, layer=3),
    ),
]


def test_limits_lie_between_chance_and_damage():
    """All harmless controls pass; each defect fails by a metric whose evidence says that it sees it."""
    profile = read(HARMLESS, DAMAGED)
    assert profile.metrics == ("kl_divergence", "salient_overlap")
    for found in HARMLESS:
        assert all(judge(found, metric, profile).acceptable for metric in profile.metrics)
    for found in DAMAGED[:2]:
        assert not judge(found, "kl_divergence", profile).acceptable
    assert not judge(DAMAGED[0], "salient_overlap", profile).acceptable


def test_the_limit_is_the_geometric_mean_on_the_scale_of_damage():
    """H and D are the bound and the smallest damage seen; for the overlap both are distances to 1."""
    limits, tests = derive_limits(HARMLESS, DAMAGED, 0.01)
    assert tests == 3  # one of the KL divergence, two layers of the overlap
    kl, overlap = limits
    assert kl.bound * 0.1 <= kl.limit**2 <= kl.bound * 0.1 * 1.1**2
    assert overlap.limit == pytest.approx(1 - (overlap.bound * 0.6) ** 0.5, abs=0.01)


def test_evidence_says_what_was_measured_and_what_is_not_seen():
    """Harmless range, bound, smallest damage and its control, blind spots, prompts, model and versions."""
    profile = read(HARMLESS, DAMAGED)
    kl = profile.limit("kl_divergence", bits="int8").evidence
    assert kl == (
        "Harmless: 0 to 0.001 (null-batches, null-dtype), by chance no further than 0.0012. Smallest damage seen: 0.1 "
        "by two-bit-layer; larger: 0.3 by three-bits. Not seen: 0.0012 by sharpened-logits. 600 prompts, model "
        "released/model, prompts boolq; torch 2.13.0, transformers 5.23.0."
    )
    overlap = profile.limit("salient_overlap", bits="int8").evidence
    assert "Harmless: 1 to 0.95 (null-batches, null-dtype), by chance no further than 0.911." in overlap
    assert "Not measured, which fails: two-bit-layer." in overlap


def test_the_description_says_how_and_what_is_missing():
    """The rate, the number of tests that share it, and every metric without a limit, with the reason."""
    description = read(HARMLESS, DAMAGED).description
    assert "2 harmless comparisons and 3 comparisons with damage: model released/model, prompts boolq" in description
    assert "0.01, shared equally by 3 tests" in description
    assert "Without a limit: accuracy_drop (not measured in any harmless model); " in description


def test_without_damage_the_limit_is_where_chance_ends():
    """A metric that sees no defect keeps its bound, and says so."""
    limits, _ = derive_limits(HARMLESS, DAMAGED[2:], 0.01)
    limit = read(HARMLESS, DAMAGED[2:]).limit("kl_divergence", bits="int8")
    assert limits[0].bound <= limit.value <= 1.1 * limits[0].bound
    assert "No damage is seen: the limit is where chance ends. Not seen: 0.0012 by sharpened-logits." in limit.evidence


def test_a_smaller_rate_gives_a_wider_limit():
    """Fewer false alarms cost sight."""
    wide, narrow = (read(HARMLESS, rate=rate).limit("kl_divergence", bits=None).value for rate in (0.001, 0.5))
    assert wide > narrow


def test_a_metric_that_chance_moves_as_far_as_it_goes_has_no_limit():
    """No value can be beyond such a limit."""
    noisy = comparison("null-dtype", estimate("flip_rate", 0.9, 0.8, 1.0), estimate("kl_divergence", 0.1, 0.0, 0.2))
    profile = read([noisy])
    assert profile.metrics == ("kl_divergence",)
    assert "flip_rate (its limit would be too loose to fail)" in profile.description


@pytest.mark.parametrize("harmless", [[], [comparison("null", estimate("flip_rate", None))]])
def test_nothing_measured_is_no_profile(harmless):
    """Without one harmless value there is no limit to write."""
    with pytest.raises(MeasurementError, match="there is no limit to write"):
        draft_profile(harmless, [], name="mine", version=1, rate=0.01)


SHARES = st.floats(0, 1)
INTERVALS = st.tuples(SHARES, SHARES, SHARES).map(sorted)


@st.composite
def controls(draw):
    """A control with any name that estimated some metrics."""
    found = []
    for metric in draw(st.lists(st.sampled_from(list(METRICS)), min_size=1, unique=True)):
        low, value, high = draw(INTERVALS)
        layer = draw(st.sampled_from([0, 3, 6])) if METRICS[metric].layered else None
        found.append(estimate(metric, value, low, high, layer=layer))
    return comparison(draw(st.text(st.characters(exclude_categories=["Cs"]))), *found)


@given(st.lists(controls(), min_size=1, max_size=3), st.lists(controls(), max_size=3), st.floats(1e-6, 0.5))
def test_the_text_reads_back_to_the_limits_that_were_derived(harmless, damaged, rate):
    """Whatever was measured, and whatever the controls are called, the file holds what was decided."""
    limits = [derived for derived in derive_limits(harmless, damaged, rate)[0] if derived.can_fail]
    if limits:
        profile = read(harmless, damaged, rate=rate)
        assert {rule.limit.metric: rule.limit.value for rule in profile.rules} == {f.metric: f.limit for f in limits}


@given(st.lists(controls(), min_size=1, max_size=3), st.lists(controls(), max_size=3), st.floats(1e-6, 0.5))
def test_no_harmless_control_fails_and_no_defect_passes_that_is_said_to_be_seen(harmless, damaged, rate):
    """What the evidence says of the controls is what the profile does with them."""
    limits = [derived for derived in derive_limits(harmless, damaged, rate)[0] if derived.can_fail]
    profile = read(harmless, damaged, rate=rate) if limits else None
    for derived in limits:
        assert all(judge(one, derived.metric, profile).acceptable for one in harmless if one.of(derived.metric))
        for one in damaged:
            seen = one.of(derived.metric) and one.candidate in derived.seen
            if seen and [other.candidate for other in damaged].count(one.candidate) == 1:
                assert not judge(one, derived.metric, profile).acceptable
