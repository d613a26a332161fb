"""`--quantcheck-calibrate`: a profile from controls on the user's own model, or a sentence that says why not."""

import pytest

from pytest_quantcheck.profiles import load_profile

RUN = (
    "--quantcheck-model=builtin",
    "--quantcheck-only",
    "--quantcheck-calibrate=mine",
    "--quantcheck-calibrate-directory=limits",
    "--quantcheck-samples=100",
    "--quantcheck-layers=2",
)


@pytest.mark.ci
def test_a_profile_is_written_that_the_next_run_can_take(gate, pytester):
    """Limits with their evidence, as the version that is free; what is there already is not touched."""
    first = pytester.path / "limits" / "mine" / "1.toml"
    first.parent.mkdir(parents=True)
    first.write_text("kept")
    found = gate(*RUN, "--quantcheck-attribution-samples=6", "-k", "null or sharpened or three-bits")
    assert "profile: limits/mine/2.toml, used with --quantcheck-profile=limits/mine/2.toml" in found.lines
    written = load_profile(str(first.with_name("2.toml")))
    assert written.label == "mine@2"
    assert {"kl_divergence", "redundancy_change"} <= set(written.metrics)
    assert all("100" in rule.limit.evidence for rule in written.rules)
    assert first.read_text() == "kept"


def test_without_defects_nothing_is_written_and_the_run_fails(gate, pytester):
    """A selection that leaves out what limits rest on is said, and is no success."""
    found = gate(*RUN, "--quantcheck-attribution=off", "-k", "null-batches")
    assert found.status == pytest.ExitCode.TESTS_FAILED
    assert "no profile mine@1 is written: it needs nulls and defects" in found.text
    assert not (pytester.path / "limits").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--quantcheck-calibrate=default@1",), "exists, and a version never changes"),
        (("--quantcheck-calibrate=../mine",), "../mine"),
        (("--quantcheck-calibrate=mine", "--quantcheck-samples=50"), "at least 100 prompts"),
    ],
)
def test_what_cannot_be_written_is_refused_before_anything_is_loaded(refused, options, said):
    """An existing version, a path for a name, too few prompts for the rate: exit status 4."""
    assert said in refused(*options)
