"""Assertions for users' tests pass, warn or fail as the verdict says, and say why."""

import inspect
import re

import msgspec
import pytest

import pytest_quantcheck
from pytest_quantcheck.assertions import QuantcheckWarning, assert_ace_drift, assert_metric, assert_salient_overlap
from pytest_quantcheck.errors import ComparisonError, ProfileError
from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.profiles import load_profile
from pytest_quantcheck.records import Comparison, Estimate
from tests.provenance import ANY

PROVENANCE = msgspec.structs.replace(ANY, model="tiny", bits="nf4", gradient_path="native", n_layers=3, layers=(1,))


def comparison(metric, value=0.2, low=0.1, high=0.3, **changes):
    """A comparison that found this and nothing else; `changes` are the comparison's other fields."""
    layer = 1 if METRICS[metric].layered else None
    reason = "" if value is not None else "too few converged attributions"
    found = Estimate(
        metric=metric,
        layer=layer,
        value=value,
        low=low,
        high=high,
        confidence=0.95,
        n_prompts=512,
        method="paired bootstrap",
        reference=0.25,
        reason=reason,
    )
    fields = {
        "candidate": "nf4",
        "prompt_set": "boolq",
        "n_prompts": 512,
        "estimates": (found,),
        "identical": False,
        "reference_provenance": msgspec.structs.replace(PROVENANCE, bits="reference"),
        "candidate_provenance": PROVENANCE,
        "histograms": {},
    }
    return Comparison(**fields | changes)


def unmeasured(**changes):
    """A comparison whose overlap could not be measured."""
    return comparison("salient_overlap", None, None, None, **changes)


def profile(**changes):
    """The default profile with these fields changed."""
    return msgspec.structs.replace(load_profile("default@2"), **changes)


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_has_its_assertion(metric):
    """`assert_<metric>` judges that metric: within a limit it gives the verdict, beyond it it fails."""
    check = getattr(pytest_quantcheck, f"assert_{metric}")
    good, bad = (0.4, 0.05) if METRICS[metric].direction == "max" else (0.05, 0.4)
    verdict = check(comparison(metric), limit=good)
    assert (verdict.metric, verdict.status, verdict.limit) == (metric, "passed", good)
    with pytest.raises(AssertionError, match=METRICS[metric].title):
        check(comparison(metric), limit=bad)


@pytest.mark.parametrize("metric", METRICS)
def test_every_assertion_is_documented(metric):
    """Its docstring says when it fails; the limit is given by name."""
    check = getattr(pytest_quantcheck, f"assert_{metric}")
    assert check.__doc__.startswith("Fail when ")
    assert inspect.signature(check).parameters["limit"].kind is inspect.Parameter.KEYWORD_ONLY


def test_failure_says_all_that_is_needed():
    """Candidate, prompt set, layer, value with interval, limit, reference, prompts, profile name and version."""
    with pytest.raises(AssertionError) as caught:
        assert_salient_overlap(comparison("salient_overlap"), limit=0.5)
    lines = [line.strip() for line in str(caught.value).splitlines()]
    assert lines[0] == "salient-neuron overlap of nf4 on boolq at layer 1 is below its limit"
    facts = dict(line.split(None, 1) for line in lines[1:] if " " in line)
    assert facts["value"] == "0.2000 (95 % interval 0.1000 to 0.3000)"
    assert facts["limit"] == "at least 0.5000 (limit=; profile default@2)"
    assert facts["reference"] == "0.2500"
    assert facts["prompts"] == "512 of boolq (paired bootstrap)"


def test_comparisons_own_profile_decides():
    """Without a limit it is the profile that the gate judges by; without one of those, the default."""
    strict = profile(name="strict", version=7).with_limits([("ace_drift", 0.01)], source="strict@7")
    with pytest.raises(AssertionError, match=r"at most 0.0100 \(strict@7\)"):
        assert_ace_drift(comparison("ace_drift", profile=strict))
    with pytest.raises(AssertionError, match="default@2"):
        assert_ace_drift(comparison("ace_drift", 9.0, 8.0, 10.0))


@pytest.mark.parametrize("limit", [float("nan"), float("inf"), -0.1, 1, 5, "0.1", True, [0.1]])
def test_limit_that_cannot_decide(limit):
    """NaN, infinite and negative limits, those that no value exceeds, and what is no number are refused."""
    with pytest.raises(
        ProfileError, match=r"limit=: expected a (finite )?limit of at least 0 and at most 0.999 .* for ace_drift"
    ):
        assert_ace_drift(comparison("ace_drift"), limit=limit)


def test_own_limit_is_changed_where_it_stands():
    """The next step names the assertion's limit, as no option reaches it; where an option does, it names that."""
    with pytest.raises(AssertionError, match=r"give\s+the\s+assertion\s+another\s+limit=") as own:
        assert_ace_drift(comparison("ace_drift"), limit=0.05)
    assert "--quantcheck-fail" not in str(own.value)
    with pytest.raises(AssertionError, match="--quantcheck-fail=ace_drift:LIMIT"):
        assert_ace_drift(comparison("ace_drift", profile=profile().with_limits([("ace_drift", 0.05)])))


@pytest.mark.parametrize("thing", [None, "int8", comparison("ace_drift").estimates[0]])
def test_only_a_comparison_is_judged(thing):
    """A candidate's name or an estimate is refused with where a comparison comes from."""
    with pytest.raises(TypeError, match=r'expected a comparison, such as quantcheck.compare\("int8"\), got '):
        assert_ace_drift(thing, limit=0.1)


def test_metric_without_a_limit():
    """A profile that does not gate by the metric cannot pass it; a limit must be given."""
    with pytest.raises(ProfileError, match=r"has no limit for ace_drift on \d+ prompts; give one with limit="):
        assert_ace_drift(comparison("ace_drift", profile=profile(rules=())))


@pytest.mark.parametrize("name", ["ace", None, ["ace_drift"]])
def test_unknown_metric(name):
    """A name that is none is refused with those that are."""
    with pytest.raises(ValueError, match=rf"expected a metric \(.*salient_overlap.*\), got {re.escape(repr(name))}\."):
        assert_metric(comparison("ace_drift"), name)


@pytest.mark.parametrize("check", [assert_ace_drift, lambda found: assert_metric(found, "ace_drift")])
def test_doubt_may_warn(check):
    """Where the profile lets it pass: one line, and it points at the line that asked."""
    warn = profile(inconclusive="warn").with_limits([("ace_drift", 0.2)])
    with pytest.warns(QuantcheckWarning) as caught:
        assert check(comparison("ace_drift", profile=warn)).status == "inconclusive"
    (warning,) = caught
    assert str(warning.message) == (
        "512 prompts are too few to say whether ACE drift of nf4 on boolq is within its limit; it passes with a warning"
    )
    assert warning.filename == __file__


def test_doubt_may_fail():
    """Where the profile does not let it pass, the text says how many prompts would settle it."""
    strict = profile(inconclusive="fail").with_limits([("ace_drift", 0.15)])
    with pytest.raises(AssertionError, match=r"about [\d,]+ prompts would settle it"):
        assert_ace_drift(comparison("ace_drift", profile=strict))


def test_unmeasured_fails_unless_allowed_by_name():
    """A metric without a value never passes in silence."""
    with pytest.raises(AssertionError, match=r"could not be measured(.|\n)*too few converged attributions"):
        assert_salient_overlap(unmeasured())
    with pytest.warns(QuantcheckWarning, match="could not be measured; it passes, as this metric may be unmeasured"):
        assert_salient_overlap(unmeasured(profile=profile(allow_unmeasured=("salient_overlap",))))


def test_router_agreement_of_a_dense_model_says_so():
    """A limit would not help: no layer has a router."""
    with pytest.raises(ComparisonError, match="router_agreement is of mixtures of experts, and no measured layer of "):
        assert_metric(comparison("salient_overlap"), "router_agreement", limit=0.9)
