"""Continuations in a whole run: said in its header, judged where a limit is given, kept in baselines."""

import json

import pytest

QUICK = (
    "--quantcheck-model=builtin",
    "--quantcheck-only",
    "--quantcheck-bits=8",
    "--quantcheck-samples=24",
    "--quantcheck-layers=2",
    "--quantcheck-attribution=off",
)
LIMITED = ("--quantcheck-fail=token_kl:0.5", "--quantcheck-fail=same_top:0.999")


@pytest.mark.ci
def test_tokens_are_scored_and_judged(gate, tmp_path):
    """By limits that are given; against a baseline the verdicts are the same, and another length is refused."""
    baseline, found = tmp_path / "baseline", {}
    for name, more in (("made", ["--quantcheck-update-baseline"]), ("taken", [])):
        run = gate(
            *QUICK,
            *LIMITED,
            "--quantcheck-continuation=6",
            f"--quantcheck-baseline={baseline}",
            f"--quantcheck-report={tmp_path / name}",
            *more,
        )
        report = json.loads((tmp_path / name / "report.json").read_text())
        (comparison,) = report["comparisons"]
        found[name] = {one["metric"]: one for one in comparison["estimates"] if "token" in one["metric"]}
        verdicts = {verdict["metric"]: verdict["status"] for verdict in report["verdicts"]}
        assert (verdicts["token_kl"], verdicts["same_top"]) == ("passed", "failed")
        assert "builtin (24 prompts), continued by up to 6 tokens; device auto" in run.text
        assert any("tokens that the reference wrote are scored" in note for note in comparison["notes"])
    assert found["taken"] == found["made"]
    other = gate(*QUICK, "--quantcheck-continuation=5", f"--quantcheck-baseline={baseline}")
    assert other.status == pytest.ExitCode.USAGE_ERROR
    assert "continuation (6 in the baseline, 5 asked for)" in " ".join(other.text.split())


def test_dry_run_says_what_would_be_written(gate):
    """And how far; nothing where it is off."""
    line = "continuation: up to 6 tokens after each prompt, written by the reference"
    assert line in gate(*QUICK, "--quantcheck-continuation=6", "--quantcheck-dry-run").lines
    assert not any(one.startswith("continuation:") for one in gate(*QUICK, "--quantcheck-dry-run").lines)
