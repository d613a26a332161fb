"""From an interval and a limit to a verdict: which side, which layer, and what the profile lets pass."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_quantcheck.judging import judge
from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.profiles import Limit, Profile, Rule
from pytest_quantcheck.records import Comparison, Estimate
from tests.provenance import ANY

MAX, MIN = "kl_divergence", "salient_overlap"
LAYERED = "redundancy_change"

shares = st.floats(0, 1, allow_nan=False, width=32)


def rule(metric, limit, **case):
    """One limit, for the cases given."""
    direction = METRICS[metric].direction
    source = ", ".join(f"{key}={value}" for key, value in case.items()) or "base"
    return Rule(limit=Limit(metric=metric, value=limit, direction=direction, evidence="test", source=source), **case)


def profile(*rules, inconclusive="fail", allow=()):
    """A profile of these rules."""
    return Profile(
        name="strict",
        version=3,
        description="",
        confidence=0.95,
        inconclusive=inconclusive,
        rules=rules,
        path="",
        allow_unmeasured=allow,
    )


def estimate(metric, value, low, high, **fields):
    """One metric with its interval, from 100 prompts."""
    fields = {"confidence": 0.95, "n_prompts": 100, "method": "bootstrap"} | fields
    return Estimate(metric=metric, value=value, low=low, high=high, **fields)


def nothing(metric, reason="no pair is left", **fields):
    """An estimate without a value."""
    return estimate(metric, None, None, None, reason=reason, **fields)


def comparison(*estimates, candidate="nf4", prompt_set="boolq"):
    """A comparison of a model of seven blocks that found these."""
    found = provenance()
    return Comparison(
        candidate=candidate,
        prompt_set=prompt_set,
        n_prompts=100,
        estimates=estimates,
        identical=False,
        reference_provenance=found,
        candidate_provenance=found,
        histograms={},
    )


def provenance():
    """Where all of these come from."""
    return ANY


def judged(metric, interval, limit, **fields):
    """The verdict on one (value, low, high) under one limit."""
    layer = {"layer": 3} if METRICS[metric].layered else {}
    return judge(comparison(estimate(metric, *interval, **layer)), metric, profile(rule(metric, limit), **fields))


@pytest.mark.parametrize(
    ("metric", "interval", "status"),
    [
        (MAX, (0.2, 0.1, 0.3), "passed"),
        (MAX, (0.4, 0.3, 0.5), "passed"),
        (MAX, (0.5, 0.5, 0.5), "passed"),
        (MAX, (0.4, 0.3, 0.51), "inconclusive"),
        (MAX, (0.6, 0.5, 0.7), "inconclusive"),
        (MAX, (0.6, 0.51, 0.7), "failed"),
        (MIN, (0.8, 0.7, 0.9), "passed"),
        (MIN, (0.6, 0.5, 0.7), "passed"),
        (MIN, (0.5, 0.5, 0.5), "passed"),
        (MIN, (0.6, 0.49, 0.7), "inconclusive"),
        (MIN, (0.4, 0.3, 0.5), "inconclusive"),
        (MIN, (0.4, 0.3, 0.49), "failed"),
    ],
)
def test_the_interval_decides(metric, interval, status):
    """At a limit of 0.5: good is up to the limit and the limit itself, bad is beyond it, else inconclusive."""
    found = judged(metric, interval, 0.5)
    assert found.status == status
    assert found.acceptable == (status == "passed")
    assert not found.warning


def test_a_verdict_says_all_that_led_to_it():
    """Metric, candidate, prompt set, estimate, limit with its direction and source, and the profile."""
    found = judged(MAX, (0.2, 0.1, 0.3), 0.5)
    assert (found.metric, found.candidate, found.prompt_set) == (MAX, "nf4", "boolq")
    assert (found.limit, found.direction, found.limit_source, found.profile) == (0.5, "max", "base", "strict@3")
    assert found.estimate == estimate(MAX, 0.2, 0.1, 0.3)


@pytest.mark.parametrize("metric", METRICS)
def test_no_value_is_unmeasured_and_fails(metric):
    """Whatever the rule for inconclusive verdicts, what was not measured is not acceptable."""
    found = comparison(nothing(metric, **({"layer": 3} if METRICS[metric].layered else {})))
    for inconclusive in ("fail", "warn", "point"):
        verdict = judge(found, metric, profile(rule(metric, 0.5), inconclusive=inconclusive))
        assert (verdict.status, verdict.acceptable, verdict.warning) == ("unmeasured", False, False)


def test_unmeasured_passes_only_where_it_is_allowed_by_name():
    """Allowing one metric lets it pass with a warning, and no other."""
    found = comparison(nothing(MAX), nothing("flip_rate"))
    asked = profile(rule(MAX, 0.5), rule("flip_rate", 0.5), allow=(MAX,))
    allowed, other = judge(found, MAX, asked), judge(found, "flip_rate", asked)
    assert (allowed.status, allowed.acceptable, allowed.warning) == ("unmeasured", True, True)
    assert not other.acceptable


def test_to_allow_unmeasured_is_not_to_allow_failure():
    """A metric that was measured and failed fails."""
    assert not judged(MAX, (0.8, 0.7, 0.9), 0.5, allow=(MAX,)).acceptable
    assert not judged(MAX, (0.5, 0.4, 0.9), 0.5, allow=(MAX,)).acceptable


@pytest.mark.parametrize(
    ("inconclusive", "value", "acceptable"),
    [
        ("fail", 0.4, False),
        ("fail", 0.6, False),
        ("warn", 0.4, True),
        ("warn", 0.6, True),
        ("point", 0.4, True),
        ("point", 0.5, True),
        ("point", 0.6, False),
    ],
)
@pytest.mark.parametrize("metric", [MAX, MIN])
def test_the_profile_says_what_inconclusive_means(metric, inconclusive, value, acceptable):
    """`fail` fails, `warn` passes, `point` goes by the value; whatever passes so passes with a warning."""
    value = value if metric == MAX else 1 - value
    found = judged(metric, (value, 0.3, 0.7), 0.5, inconclusive=inconclusive)
    assert (found.status, found.acceptable, found.warning) == ("inconclusive", acceptable, acceptable)


@pytest.mark.parametrize("interval", [(0.4, 0.2, 0.6), (0.6, 0.2, 1.0)])
def test_inconclusive_says_how_many_prompts_would_settle_it(interval):
    """The half width shrinks with the root of the number of prompts; 2.043 as many make it so four times in five."""
    value, low, high = interval
    expected = 100 * ((high - value if value < 0.5 else value - low) / abs(0.5 - value)) ** 2
    wanted = 2.0429 * expected  # and up to a whole one
    assert judged(MAX, interval, 0.5).prompts_needed == pytest.approx(wanted, rel=0.002)


def test_of_attributed_prompts_some_do_not_converge():
    """Where two in three converged, half as many again must be attributed to have as many as are needed."""
    found = estimate(MIN, 0.6, 0.4, 0.8)
    tried = estimate(MIN, 0.6, 0.4, 0.8, details={"attributed": 150.0, "converged": 100.0})
    numbers = [judge(comparison(e), MIN, profile(rule(MIN, 0.5))).prompts_needed for e in (found, tried)]
    assert numbers == [818, 1227]


def test_what_more_prompts_do_not_narrow_may_never_settle_it():
    """The neurons that were not correlated leave more than the distance to the limit: no number is named."""
    found = estimate(LAYERED, 0.4, 0.2, 0.6, layer=0, details={"floor": 0.15})
    assert judge(comparison(found), LAYERED, profile(rule(LAYERED, 0.5))).prompts_needed is None


def test_only_inconclusive_verdicts_need_prompts():
    """A settled verdict needs none, and where the value is the limit no number settles it."""
    assert judged(MAX, (0.2, 0.1, 0.3), 0.5).prompts_needed is None
    assert judged(MAX, (0.8, 0.7, 0.9), 0.5).prompts_needed is None
    assert judged(MAX, (0.5, 0.4, 0.6), 0.5).prompts_needed is None


PASSED, CLOSE = (0.1, 0.05, 0.15), (0.4, 0.3, 0.45)
INCONCLUSIVE, FAILED, WORSE = (0.5, 0.4, 0.6), (0.7, 0.6, 0.8), (0.8, 0.6, 0.9)


@pytest.mark.parametrize(
    ("layers", "worst", "status"),
    [
        ((PASSED, CLOSE, PASSED), 3, "passed"),
        ((PASSED, INCONCLUSIVE, CLOSE), 3, "inconclusive"),
        ((INCONCLUSIVE, PASSED, None), 6, "unmeasured"),
        ((None, FAILED, INCONCLUSIVE), 3, "failed"),
        ((FAILED, PASSED, WORSE), 6, "failed"),
        ((WORSE, None, FAILED), 0, "failed"),
    ],
)
def test_the_worst_layer_decides(layers, worst, status):
    """Failed before unmeasured before inconclusive before passed; among equals the one furthest over the limit."""
    numbered = zip((0, 3, 6), layers, strict=True)
    found = [estimate(LAYERED, *i, layer=n) if i else nothing(LAYERED, layer=n) for n, i in numbered]
    verdict = judge(comparison(*found), LAYERED, profile(rule(LAYERED, 0.5)))
    assert (verdict.status, verdict.estimate.layer) == (status, worst)


def test_the_worst_overlap_is_the_smallest():
    """Where small is bad, the layer with the smallest value decides."""
    found = [estimate(MIN, v, v - 0.05, v + 0.05, layer=n) for n, v in ((0, 0.9), (3, 0.6), (6, 0.8))]
    assert judge(comparison(*found), MIN, profile(rule(MIN, 0.5))).estimate.layer == 3


def test_what_fails_is_worse_than_what_is_let_pass():
    """A layer that is allowed to be unmeasured does not hide one that is inconclusive and fails."""
    found = comparison(nothing(LAYERED, layer=0), estimate(LAYERED, *INCONCLUSIVE, layer=3))
    verdict = judge(found, LAYERED, profile(rule(LAYERED, 0.5), allow=(LAYERED,)))
    assert (verdict.estimate.layer, verdict.acceptable) == (3, False)


def test_layers_without_definition_take_no_part():
    """A layer that is not applicable is neither bad nor good; the others decide."""
    undefined = nothing(MIN, layer=0, applicable=False)
    found = comparison(undefined, estimate(MIN, 0.8, 0.7, 0.9, layer=3))
    verdict = judge(found, MIN, profile(rule(MIN, 0.5)))
    assert (verdict.status, verdict.estimate.layer) == ("passed", 3)


def test_at_least_one_layer_must_remain():
    """No layer applicable: unmeasured, and the reason tells of each."""
    found = comparison(*(nothing(MIN, f"reason {n}", layer=n, applicable=False) for n in (0, 3)))
    verdict = judge(found, MIN, profile(rule(MIN, 0.5)))
    assert (verdict.status, verdict.acceptable) == ("unmeasured", False)
    assert verdict.estimate.reason == "layer 0: reason 0; layer 3: reason 3"


def test_a_metric_that_was_not_estimated_is_unmeasured():
    """Attribution was off, and the profile gates the overlap: that is no pass."""
    verdict = judge(comparison(estimate(MAX, *PASSED)), MIN, profile(rule(MIN, 0.5)))
    assert (verdict.status, verdict.acceptable) == ("unmeasured", False)
    assert verdict.estimate.reason == "it was not measured"


def test_limit_of_the_first_layer_stands_where_none_remains():
    """The verdict names the limit of the first gated layer, also where the others have their own."""
    found = comparison(*(nothing(MIN, layer=n, applicable=False) for n in (0, 6)))
    assert judge(found, MIN, profile(rule(MIN, 0.5), rule(MIN, 0.6, layer="last"))).limit == 0.5


@pytest.mark.parametrize("applicable", [True, False])
def test_a_layer_that_alone_is_gated_must_be_measured(applicable):
    """A limit for the last layer only: where that one is not applicable, another's good value does not stand in."""
    last = estimate(MIN, 0.8, 0.7, 0.9, layer=6) if applicable else nothing(MIN, layer=6, applicable=False)
    found = comparison(estimate(MIN, 0.9, 0.8, 1.0, layer=3), last)
    verdict = judge(found, MIN, profile(rule(MIN, 0.5, layer="last")))
    assert verdict.status == ("passed" if applicable else "unmeasured")


def test_a_layer_that_alone_is_gated_must_be_estimated():
    """The same where there is not one estimate."""
    verdict = judge(comparison(), MIN, profile(rule(MIN, 0.5, layer="last")))
    assert (verdict.status, verdict.acceptable) == ("unmeasured", False)


def test_a_misspelt_metric_is_refused():
    """No estimate and no verdict would pass for nothing to object to."""
    found = comparison(estimate("flip_rate", 0.1, 0.0, 0.2))
    for asked in (found.of, lambda metric: judge(found, metric, profile())):
        with pytest.raises(ValueError, match=r"expected a metric .*, got 'flip-rate'. Did you mean 'flip_rate'"):
            asked("flip-rate")


def test_what_the_profile_does_not_gate_has_no_verdict():
    """No rule for the metric, or none for this candidate, prompt set or layer: None."""
    found = comparison(
        estimate(MAX, *FAILED), estimate(LAYERED, *FAILED, layer=3), nothing(MIN, layer=3, applicable=False)
    )
    assert judge(found, MAX, profile(rule(LAYERED, 0.5))) is None
    assert judge(found, MAX, profile(rule(MAX, 0.5, bits="int8"))) is None
    assert judge(found, MAX, profile(rule(MAX, 0.5, prompts="piqa"))) is None
    assert judge(found, LAYERED, profile(rule(LAYERED, 0.5, layer="last"))) is None
    assert judge(found, MIN, profile(rule(MAX, 0.5))) is None


@pytest.mark.parametrize(("form", "limit"), [("bitsandbytes nf4", 0.6), ("bitsandbytes int8", 0.5), ("gguf Q4_0", 0.5)])
def test_a_saved_checkpoint_has_its_bit_widths_limit(form, limit):
    """Whatever it is called; other formats have none of their own."""
    found = comparison(estimate(LAYERED, 0.55, 0.52, 0.58, layer=3), candidate="int8-final")
    saved = msgspec.structs.replace(found.candidate_provenance, bits="released", format=form)
    found = msgspec.structs.replace(found, candidate_provenance=saved)
    assert judge(found, LAYERED, profile(rule(LAYERED, 0.5), rule(LAYERED, 0.6, bits="nf4"))).limit == limit


@pytest.mark.parametrize(
    ("case", "limit"),
    [
        ({"bits": "nf4"}, 0.6),
        ({"bits": "int8"}, 0.5),
        ({"layer": "middle"}, 0.6),
        ({"layer": 3}, 0.6),
        ({"layer": "last"}, 0.5),
        ({"prompts": "boolq"}, 0.6),
        ({"prompts": "piqa"}, 0.5),
        ({"model": "released/model"}, 0.6),
        ({"model": "other"}, 0.5),
    ],
)
def test_the_limit_is_that_of_the_case(case, limit):
    """A limit for this candidate, layer, prompt set or reference replaces the metric's own; one for others does not."""
    found = comparison(estimate(LAYERED, 0.55, 0.52, 0.58, layer=3))
    verdict = judge(found, LAYERED, profile(rule(LAYERED, 0.5), rule(LAYERED, 0.6, **case)))
    assert verdict.limit == limit
    assert verdict.status == ("passed" if limit == 0.6 else "failed")
    assert verdict.limit_source == (", ".join(f"{k}={v}" for k, v in case.items()) if limit == 0.6 else "base")


def test_each_layer_is_judged_by_its_own_limit():
    """A layer that is far out under a wide limit does not decide over one just beyond a narrow one."""
    found = comparison(estimate(LAYERED, *WORSE, layer=0), estimate(LAYERED, *PASSED, layer=3))
    verdict = judge(found, LAYERED, profile(rule(LAYERED, 0.01), rule(LAYERED, 1.0, layer="first")))
    assert (verdict.estimate.layer, verdict.limit, verdict.status) == (3, 0.01, "failed")


intervals = st.tuples(shares, shares, shares).map(sorted).map(lambda i: (i[1], i[0], i[2]))


@given(st.sampled_from([MAX, MIN]), intervals, shares)
def test_nothing_passes_that_is_not_wholly_good(metric, interval, limit):
    """Under `fail`, acceptable means that no number of the interval is on the bad side; failed that none is good."""
    found = judged(metric, interval, limit)
    good = [x <= limit if metric == MAX else x >= limit for x in interval]
    assert found.acceptable == all(good)
    assert (found.status == "failed") == (not any(good))


@given(st.sampled_from([MAX, MIN]), intervals, shares, shares, st.sampled_from(["fail", "warn", "point"]))
def test_a_stricter_limit_never_lets_more_pass(metric, interval, one, two, inconclusive):
    """What is acceptable under a limit is acceptable under every looser one, and its status is no worse."""
    strict, loose = sorted((one, two), reverse=metric == MIN)
    verdicts = [judged(metric, interval, limit, inconclusive=inconclusive) for limit in (strict, loose)]
    assert verdicts[0].acceptable <= verdicts[1].acceptable
    order = ["failed", "inconclusive", "passed"]
    assert order.index(verdicts[0].status) <= order.index(verdicts[1].status)


@given(st.lists(intervals, min_size=1, max_size=3), shares, st.sampled_from(["fail", "warn", "point"]))
def test_a_metric_is_acceptable_when_each_layer_is(layers, limit, inconclusive):
    """The gate over all layers is that over each of them, and the worst's verdict is one of theirs."""
    asked = profile(rule(LAYERED, limit), inconclusive=inconclusive)
    found = [estimate(LAYERED, *interval, layer=n) for n, interval in zip((0, 3, 6), layers, strict=False)]
    together = judge(comparison(*found), LAYERED, asked)
    alone = [judge(comparison(one), LAYERED, asked) for one in found]
    assert together.acceptable == all(verdict.acceptable for verdict in alone)
    assert together in alone


@given(intervals, shares)
def test_more_prompts_are_never_fewer(interval, limit):
    """The number of prompts that would settle a verdict is at least what there are, and finite."""
    needed = judged(MAX, interval, limit).prompts_needed
    assert needed is None or (needed >= 100 and math.isfinite(needed))


@pytest.mark.parametrize(("n", "gated"), [(99, False), (100, True)])
def test_a_limit_may_gate_from_so_many_prompts_up(n, gated):
    """With fewer prompts chance would decide: there is no verdict, on layers neither."""
    for metric in (MAX, "redundancy_change"):
        found = rule(metric, 0.5)
        few = msgspec.structs.replace(found, limit=msgspec.structs.replace(found.limit, from_prompts=100))
        layer = 0 if metric == "redundancy_change" else None
        measured = msgspec.structs.replace(comparison(estimate(metric, 0.6, 0.55, 0.65, layer=layer)), n_prompts=n)
        assert (judge(measured, metric, profile(few)) is not None) == gated
