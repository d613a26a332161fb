"""The command that runs tests on lesser processors notices a test whose outcome depends on the processor."""

import pytest

from tests.processors import LEVELS, Level, LevelError, Outcomes, look, problems, report, run

TRIAL = """
import os
import pytest

def test_alike(): pass
def test_other(): assert os.environ["TRIAL"] == "high"
def test_skipped():
    if os.environ["TRIAL"] == "low":
        pytest.skip("needs the high level")
"""
TWO = {name: Level(1, {"TRIAL": name}) for name in ("high", "low")}


@pytest.fixture
def trial(tmp_path):
    """Writes a file of tests; gives the paths to run."""

    def write(code):
        (tmp_path / "test_trial.py").write_text(code)
        return [str(tmp_path)]

    return write


@pytest.mark.ci
def test_other_outcome_is_noticed(trial, capsys):
    """The test is named with its outcome at each level and the reason; equal outcomes and skips are no difference."""
    assert report(TWO, trial(TRIAL)) == 1
    _, first, second, test, high, low = capsys.readouterr().out.splitlines()
    assert first.startswith("high: 3 passed in ")
    assert second.startswith("low: 1 failed, 1 passed, 1 skipped in ")
    assert test.startswith("DIFFERS ")
    assert test.endswith("test_trial::test_other")
    assert high == "    high: passed"
    assert low.startswith("    low: failed AssertionError: assert 'low' == 'high'")


def test_run_that_breaks_off_is_an_error(trial):
    """A file that cannot be imported, or a crash, leaves no outcomes: what pytest said is told."""
    with pytest.raises(LevelError, match=r"expected pytest to end with 0 or 1, got 2:[^$]*no_such_module"):
        run(TWO["low"], trial("import no_such_module"))


@pytest.mark.parametrize(
    ("high", "low", "expected"),
    [
        ("passed", "passed", []),
        ("passed", "skipped", []),
        ("skipped", "skipped", []),
        ("failed", "failed", ["FAILS test", "    high: failed", "    low: failed"]),
        ("failed", "error", ["DIFFERS test", "    high: failed", "    low: error"]),
        ("passed", None, ["DIFFERS test", "    high: passed", "    low: not run"]),
    ],
)
def test_problems_are_differences_and_failures(high, low, expected):
    """A test that fails everywhere is no difference, but no success either; neither is one that did not run."""
    found = {name: Outcomes({"test": end} if end else {}, {}, 1.0) for name, end in (("high", high), ("low", low))}
    assert list(problems(found)) == expected


@pytest.mark.ci
def test_lowest_level_is_low():
    """Its process has no vector instructions in torch, and none that bitsandbytes would pack weights for."""
    shown = look(LEVELS["no AVX"])
    assert shown.startswith("torch DEFAULT, ")
    assert shown.endswith("bitsandbytes does not pack 4-bit weights, threads 1")
