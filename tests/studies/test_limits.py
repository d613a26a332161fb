"""The study behind `default@1`, reduced: it tells models that are the same from models that are broken."""

import pytest

from pytest_quantcheck.judging import judge
from pytest_quantcheck.measuring import Plan
from pytest_quantcheck.models.source import Source
from pytest_quantcheck.profiles import load_profile
from pytest_quantcheck.prompts import read_prompts
from tests.studies.limits import study

WANTED = (
    "null: batches of 5",
    "null: bf16",
    "round to nearest, 2 bits",
    "last block at 2 bits",
    "5 % of gate rows zeroed",
)


@pytest.fixture(scope="module")
def comparisons():
    """Some of the study's cases on 48 prompts of the built-in model."""
    plan = Plan(samples=8, layers=(2, 5))
    return dict(study(Source("builtin", dtype="fp32"), read_prompts("builtin", samples=48), plan, only=WANTED))


def failed(comparison):
    """The metrics that `default@1` does not accept."""
    profile = load_profile("default@1")
    verdicts = [judge(comparison, metric, profile) for metric in profile.metrics]
    return {verdict.metric for verdict in verdicts if verdict and not verdict.acceptable}


@pytest.mark.parametrize("case", WANTED[:2])
def test_null_passes(comparisons, case):
    """The same weights in other batches, or in bf16, are fit for release."""
    assert failed(comparisons[case]) == set()


@pytest.mark.parametrize(
    ("case", "metric"),
    [
        ("round to nearest, 2 bits", "kl_divergence"),
        ("round to nearest, 2 bits", "redundancy_change"),
        ("last block at 2 bits", "salient_overlap"),
        ("5 % of gate rows zeroed", "dead_neuron_delta"),
    ],
)
def test_damage_is_seen(comparisons, case, metric):
    """A defect fails by the metric that is there to see it."""
    assert metric in failed(comparisons[case])
