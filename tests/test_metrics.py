"""The table of metrics, and one rule for what can be a metric and its limit."""

import math
import re

import numpy as np
import pytest

import pytest_quantcheck.comparing  # noqa: F401 - registers the estimators
from pytest_quantcheck.comparing.estimators import estimators
from pytest_quantcheck.errors import MetricError
from pytest_quantcheck.metrics import METRICS, check_limit, find_metric, judgeable
from pytest_quantcheck.text import nearest


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_row_says_everything(metric):
    """No metric is shown without words for newcomers, a range and what it is estimated from."""
    assert all((metric.title, metric.meaning, metric.definition, metric.needs))
    assert metric.least < metric.most
    assert metric.direction == "max" or (metric.least, metric.most) == (0, 1)
    assert all(map(math.isfinite, metric.limit_range))


def test_every_metric_is_estimated():
    """Each metric has a function that estimates it from stored data, and no other metric has one."""
    found = [name for what in ("answers", "tokens", "layers") for name, _ in estimators(of=what)]
    assert sorted(found) == sorted(METRICS)


def test_metrics_of_attributions_need_attributions():
    """Without attribution the gated metrics are those that need none, in the order of the table."""
    gated = ["salient_overlap", "flip_rate", "token_kl", "accuracy_drop"]
    assert judgeable(gated, attributed=False, scored=False) == ("accuracy_drop", "flip_rate")
    assert judgeable(gated[:2], attributed=True, scored=False) == ("flip_rate", "salient_overlap")
    assert judgeable(gated[1:3], attributed=False, scored=True) == ("flip_rate", "token_kl")


def test_unknown_metric_lists_all_and_offers_the_nearest():
    """A mistyped metric is answered with the known ones and the one that was probably meant."""
    with pytest.raises(ValueError, match="Did you mean 'ace_drift'") as caught:
        find_metric("ACE-drfit")
    assert all(name in str(caught.value) for name in METRICS)
    assert str(caught.value).startswith("expected a metric (ace_drift, ")


def test_unknown_metric_like_none():
    """Where nothing was probably meant, the sentence still says what to do."""
    with pytest.raises(MetricError, match=r"got 'zzz'\. Name one of these\.$"):
        find_metric("zzz")


def test_nothing_similar_offers_nothing():
    """A word that resembles no known one gets no suggestion."""
    assert nearest("zzz", METRICS) == ""


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1e-9])
def test_limits_that_cannot_decide_are_refused(metric, value):
    """NaN, infinite and negative limits are refused for every metric."""
    with pytest.raises(ValueError, match=f"expected a (finite )?limit of at least 0.* for {metric.name}, got "):
        check_limit(metric, value)


@pytest.mark.parametrize("value", ["0.1", None, [0.1], 1j, True, 10**400])
def test_what_is_no_number_is_refused(value):
    """Also True, which would pass for 1, and a whole number beyond all floats."""
    with pytest.raises(
        ValueError, match=r"expected a finite limit of at least 0 and at most 0.999 .* for flip_rate, got "
    ):
        check_limit(METRICS["flip_rate"], value)


def test_a_limit_is_a_plain_float():
    """NumPy's numbers become one, so that a verdict can be written."""
    assert type(check_limit(METRICS["flip_rate"], np.float32(0.5))) is float


@pytest.mark.parametrize(
    ("metric", "value"),
    [(name, 0) for name, metric in METRICS.items() if metric.direction == "max"]
    + [
        ("flip_rate", 0.999),
        ("salient_overlap", 1),
        ("salient_overlap", 0.001),
        ("redundancy_change", 1.999),
        ("kl_divergence", 10),
    ],
)
def test_a_limit_that_some_values_keep_and_others_do_not(metric, value):
    """A limit equal to the best possible value is the strictest; the loosest lies before the worst value."""
    assert check_limit(METRICS[metric], value) == value


@pytest.mark.parametrize(
    ("metric", "value", "guess"),
    [
        ("flip_rate", 5, " Did you mean 0.05?"),
        ("flip_rate", 1, " Did you mean 0.01?"),
        ("accuracy_drop", 12.5, " Did you mean 0.125?"),
        ("redundancy_change", 2.0, " Did you mean 0.02?"),
        ("salient_overlap", 45, " Did you mean 0.45?"),
        ("salient_overlap", 1.1, " Did you mean 0.011?"),
        ("salient_overlap", 0, ""),
        ("flip_rate", 500, ""),
        ("flip_rate", -5, ""),
        ("flip_rate", 0.9995, ""),
        ("redundancy_change", 1.9995, " Did you mean 0.019995?"),
        ("salient_overlap", 1e-320, ""),
        ("salient_overlap", 0.0009, ""),
        ("kl_divergence", 10.01, ""),
        ("kl_divergence", 100, ""),
        ("kl_divergence", 1e308, ""),
    ],
)
def test_a_limit_that_every_value_keeps_or_none_is_refused(metric, value, guess):
    """The range is named, and for a percentage the share that was probably meant; nats are no share."""
    with pytest.raises(ValueError, match=rf"expected a limit .* for {metric}, got {re.escape(str(value))}") as caught:
        check_limit(METRICS[metric], value)
    assert str(caught.value).endswith(guess or str(value))
