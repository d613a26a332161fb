"""Verdicts as properties of a test case."""

from pytest_quantcheck.reporting import ungated_properties, verdict_properties


def test_properties_of_a_failed_verdict(make):
    """All facts that a CI system may sort by, each under the tool's own prefix."""
    found = make.estimate("kl_divergence", 0.1902, 0.1702, 0.2113, layer=0, reference=0.0, candidate=0.5)
    verdict = make.verdict(found, conditions=("another torch: 2.12.0", "another seed: 1"))
    assert dict(verdict_properties(verdict)) == {
        "quantcheck_metric": "kl_divergence",
        "quantcheck_candidate": "nf4",
        "quantcheck_prompts": "boolq",
        "quantcheck_n_prompts": 512,
        "quantcheck_layer": 0,
        "quantcheck_value": 0.1902,
        "quantcheck_unit": "nats",
        "quantcheck_low": 0.1702,
        "quantcheck_high": 0.2113,
        "quantcheck_confidence": 0.95,
        "quantcheck_method": "paired bootstrap, 10000 draws",
        "quantcheck_reference_value": 0.0,
        "quantcheck_candidate_value": 0.5,
        "quantcheck_limit": 0.1,
        "quantcheck_direction": "max",
        "quantcheck_limit_source": "default@1",
        "quantcheck_profile": "default@1",
        "quantcheck_conditions": "another torch: 2.12.0; another seed: 1",
        "quantcheck_status": "failed",
        "quantcheck_acceptable": "no",
    }


def test_properties_of_a_doubt(make):
    """An inconclusive verdict says whether it passes, and how many prompts would settle it."""
    properties = dict(verdict_properties(make.verdict(status="inconclusive", acceptable=True, prompts_needed=2100)))
    assert properties["quantcheck_acceptable"] == "yes"
    assert properties["quantcheck_prompts_needed"] == 2100


def test_properties_without_a_limit(make):
    """What was estimated, at the worst layer, and why nothing was judged."""
    layers = [make.estimate("redundancy_change", value, 0.0, 1.0, layer=n) for n, value in enumerate((0.1, 0.3))]
    found = dict(ungated_properties(make.comparison(*layers), "redundancy_change", reason="no limit"))
    assert (found["quantcheck_layer"], found["quantcheck_value"]) == (1, 0.3)
    assert (found["quantcheck_status"], found["quantcheck_reason"]) == ("not gated", "no limit")


def test_both_reasons_without_a_limit(make):
    """What could not be estimated says why, and why it is not judged."""
    comparison = make.comparison(make.unmeasured("ace_drift", "one answer"))
    found = dict(ungated_properties(comparison, "ace_drift", reason="no limit"))
    assert found["quantcheck_reason"] == "one answer; no limit"
    assert "quantcheck_value" not in found


def test_metric_that_was_not_estimated(make):
    """A metric that a comparison does not have is named, with the reason."""
    found = dict(ungated_properties(make.comparison(), "ace_drift", reason="no limit"))
    assert (found["quantcheck_metric"], found["quantcheck_reason"]) == ("ace_drift", "no limit")


def test_unknown_facts_are_left_out(make):
    """No property says None."""
    names = dict(verdict_properties(make.verdict(make.unmeasured("ace_drift", "no"), "unmeasured")))
    assert names["quantcheck_reason"] == "no"
    assert None not in names.values()
    assert not names.keys() & {"quantcheck_value", "quantcheck_low", "quantcheck_high", "quantcheck_layer"}
