"""A reference that cannot be seen to fall lets no candidate pass, and the first line says why."""

import json

import pytest

QUICK = (
    "--quantcheck-only",
    "--quantcheck-model=builtin",
    "--quantcheck-bits=8",
    "--quantcheck-layers=2",
    "--quantcheck-continuation=0",
    "--quantcheck-profile=default@1",
    "--quantcheck-attribution-samples=5",
    "--quantcheck-report=out",
)


@pytest.fixture
def bananas(pytester, tmp_path):
    """A prompt file with one gold that the model never gives."""
    path = tmp_path / "bananas.csv"
    path.write_text("prompt,gold\n" + "".join(f"True or False? {n} is even.,banana\n" for n in range(24)))
    return path


@pytest.fixture
def summary(tmp_path, monkeypatch):
    """Where GitHub wants the step summary."""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    return tmp_path / "summary.md"


def test_golds_that_are_never_given_pass_nothing(pytester, bananas, summary):
    """Progress, terminal, Markdown, page and report.json agree: accuracy and ACE are not measured, and why."""
    result = pytester.runpytest_inprocess(*QUICK, f"--quantcheck-prompts={bananas}")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    text = result.stdout.str()
    noted = text.index("reference on bananas: accuracy drop cannot be measured: the reference is right on 0.0%")
    head, _, rest = text.partition("quantcheck: builtin")[2].partition("int8: could not be judged (3 unmeasured, ")
    assert noted < text.index("short test summary")
    assert "bananas cannot show accuracy drop: the reference is right on 0.0%" in " ".join(head.split())
    assert "Look at the template ('raw:{prompt}'," in " ".join(head.split())
    assert "it cannot show accuracy drop, ACE drift" in " ".join(rest.split())
    report = json.loads((pytester.path / "out" / "report.json").read_text())
    status = {verdict["metric"]: verdict["status"] for verdict in report["verdicts"]}
    assert (status["accuracy_drop"], status["ace_drift"]) == ("unmeasured", "unmeasured")
    (comparison,) = report["comparisons"]
    assert comparison["evidence"]["lacking"].keys() >= {"accuracy_drop", "ace_drift"}
    accuracy = next(one for one in comparison["estimates"] if one["metric"] == "accuracy_drop")
    assert (accuracy["value"], accuracy["reference"], accuracy["candidate"]) == (None, 0.0, 0.0)
    page = (pytester.path / "out" / "report.html").read_text()
    for place in (summary.read_text().partition("###")[0], page.partition("</header>")[0]):
        assert "bananas cannot show accuracy drop: the reference is right on 0.0%" in place
    for place in (summary.read_text(), page):
        assert "24 distinct inputs of 24 prompts; the reference is right on 0.0%" in place
