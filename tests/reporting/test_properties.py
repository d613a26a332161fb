"""Verdicts as properties of a test case."""

from pytest_quantcheck.reporting import verdict_properties


def test_properties_of_a_failed_verdict(make):
    """All facts that a CI system may sort by, each under the tool's own prefix."""
    found = make.estimate("redundancy_change", 0.0653, 0.0642, 0.0664, layer=0, reference=0.0)
    assert dict(verdict_properties(make.verdict(found))) == {
        "quantcheck_metric": "redundancy_change",
        "quantcheck_candidate": "nf4",
        "quantcheck_prompts": "boolq",
        "quantcheck_n_prompts": 512,
        "quantcheck_layer": 0,
        "quantcheck_value": 0.0653,
        "quantcheck_low": 0.0642,
        "quantcheck_high": 0.0664,
        "quantcheck_confidence": 0.95,
        "quantcheck_reference": 0.0,
        "quantcheck_limit": 0.02,
        "quantcheck_direction": "max",
        "quantcheck_limit_source": "default@1",
        "quantcheck_profile": "default@1",
        "quantcheck_status": "failed",
    }


def test_unknown_facts_are_left_out(make):
    """No property says None."""
    names = dict(verdict_properties(make.verdict(make.unmeasured("ace_drift", "no"), "unmeasured")))
    assert None not in names.values()
    assert not names.keys() & {"quantcheck_value", "quantcheck_low", "quantcheck_high", "quantcheck_layer"}
