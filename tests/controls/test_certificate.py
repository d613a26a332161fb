"""What controls show of a gate: nulls and rewrites must pass, defects must be seen."""

import datetime as dt

import pytest

from pytest_quantcheck.controls.certificate import (
    certify,
    conclusion,
    in_order,
    judge_control,
    spreads,
    without_verdicts,
)
from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.records import Estimate, Verdict

HEAD = {
    "model": "m",
    "profile": "default@1",
    "tool_version": "0.1.0",
    "created": dt.datetime(2026, 11, 24, tzinfo=dt.UTC),
}


def verdict(status, metric="flip_rate", value=0.1, spread=0.02, *, acceptable=None, n_prompts=512):
    """A verdict on an estimate with an interval of `value` give or take `spread`."""
    low, high = (None, None) if value is None else (value - spread, value + spread)
    found = Estimate(metric=metric, value=value, low=low, high=high, confidence=0.95, n_prompts=n_prompts, method="")
    return Verdict(
        metric=metric,
        candidate="null-dtype",
        prompt_set="boolq",
        status=status,
        acceptable=status == "passed" if acceptable is None else acceptable,
        warning=False,
        estimate=found,
        limit=0.2,
        direction=METRICS[metric].direction,
        limit_source="default@1",
        profile="default@1",
    )


def judged(control, *verdicts, prompt_set="boolq"):
    """The result of a control from these verdicts."""
    return judge_control(control, prompt_set, verdicts, done="")


@pytest.mark.parametrize("control", ["null-dtype", "rewrite-permuted"])
def test_what_is_no_damage_must_be_acceptable_to_every_metric(control):
    """One verdict that would stop a release fails it, whatever its status; it is named."""
    doubt = verdict("inconclusive", acceptable=True)
    assert judged(control, verdict("passed"), doubt).outcome == "passed"
    for status in ("failed", "unmeasured", "inconclusive"):
        found = judged(control, verdict("passed"), verdict(status, "ace_drift", acceptable=False))
        assert (found.outcome, found.seen_by) == ("failed", ("ace_drift",))
        assert found.reason == "called damage by ACE drift"


@pytest.mark.parametrize(
    ("status", "acceptable", "caught"),
    [
        ("failed", False, True),
        ("unmeasured", False, True),
        ("unmeasured", True, False),
        ("inconclusive", False, False),
        ("inconclusive", True, False),
    ],
)
def test_defect_must_be_seen_by_one_metric(status, acceptable, caught):
    """Failed or unmeasured, and not allowed to be: what is in doubt is not seen."""
    found = judged("three-bits", verdict("passed"), verdict(status, "kl_divergence", acceptable=acceptable))
    assert (found.outcome == "passed") == caught == (found.seen_by == ("kl_divergence",))


def test_defect_that_no_metric_saw_says_so():
    """And names the metrics that were in doubt."""
    doubt = verdict("inconclusive", acceptable=False)
    assert judged("three-bits", verdict("passed")).reason == "no metric saw it"
    assert judged("three-bits", doubt).reason == "no metric saw it; in doubt: flip rate"


def test_control_without_verdicts_shows_nothing():
    """A profile without a limit in its case says neither that it passed nor that it failed."""
    assert judged("three-bits").outcome == judged("null-dtype").outcome == "not applicable"


def test_spread_is_that_of_what_is_no_damage():
    """Nulls and rewrites of one prompt set together; a defect has no part in it."""
    found = spreads(
        [
            judged("null-dtype", verdict("passed", value=0.01), verdict("unmeasured", "ace_drift", value=None)),
            judged("rewrite-permuted", verdict("passed", value=0.04, n_prompts=64)),
            judged("three-bits", verdict("failed", value=0.9)),
            judged("null-dtype", verdict("passed", value=0.3), prompt_set="toxicity"),
        ]
    )
    first, second = found
    assert (first.metric, first.prompt_set, first.n_controls, first.n_prompts) == ("flip_rate", "boolq", 2, 64)
    assert (first.smallest, first.largest, first.resolvable) == (0.01, 0.04, pytest.approx(0.06))
    assert (second.prompt_set, second.largest) == ("toxicity", 0.3)


def test_furthest_end_is_on_the_failing_side():
    """An overlap fails downwards."""
    (found,) = spreads([judged("null-dtype", verdict("passed", "salient_overlap", 0.9, 0.05))])
    assert found.resolvable == pytest.approx(0.85)


def test_conclusion_counts_controls_by_their_worst_prompt_set():
    """A defect that one prompt set does not show is not caught."""
    results = [
        judged("null-dtype", verdict("passed")),
        judged("rewrite-permuted", verdict("failed")),
        without_verdicts("null-kernels", "boolq", "not applicable", "no other kernels"),
        *(judged("three-bits", verdict(status), prompt_set=status) for status in ("failed", "passed")),
        judged("zeroed-rows", verdict("failed")),
    ]
    assert conclusion(results) == "1 of 2 negative controls passed, 1 of 2 defects were caught, 1 not applicable"
    assert conclusion(results[-1:]) == "1 of 1 defect was caught"


def test_order_is_that_of_the_controls():
    """Whichever worker was first."""
    found = in_order(judged(name, verdict("passed")) for name in ("three-bits", "null-dtype", "null-batches"))
    assert [result.control for result in found] == ["null-batches", "null-dtype", "three-bits"]


@pytest.mark.parametrize(("status", "whole"), [("passed", True), ("failed", True), ("passed", False)])
def test_certificate_passes_where_nothing_failed_and_nothing_is_missing(status, whole):
    """A run that stopped early certifies nothing."""
    found = certify([judged("null-dtype", verdict(status))], whole=whole, **HEAD)
    assert (found.outcome == "passed") == (status == "passed" and whole)
