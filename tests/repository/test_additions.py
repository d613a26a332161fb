"""A metric is added in one place: its row in `METRICS`, and the function that estimates it."""

from datetime import UTC, datetime
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

import pytest_quantcheck
from pytest_quantcheck.comparing import IntervalSettings, estimators
from pytest_quantcheck.comparing.answer_estimates import prompt_estimates
from pytest_quantcheck.judging import judge
from pytest_quantcheck.metrics import METRICS, Metric
from pytest_quantcheck.profiles import load_profile
from pytest_quantcheck.records import Answers, Comparison
from pytest_quantcheck.reporting import Report, encode_report, markdown_lines, summary_lines, verdict_properties
from tests.docs import reference
from tests.provenance import ANY

ROW = Metric("trial_share", "trial share", "share that is tried", "share of all that is tried", "max", ("answers",))


def answers():
    """Forty prompts, all answered alike."""
    alike = np.full(40, 0.5)
    rest = np.full((40, 1), np.log(0.5), dtype=np.float32)
    tokens = np.ones((40, 1), dtype=np.int32)
    return Answers(np.arange(40), tokens[:, 0].astype(int), alike, alike > 0, tokens, rest, rest[:, 0], exact=False)


@pytest.fixture
def comparison(monkeypatch):
    """A comparison that was estimated after the trial metric was added."""
    monkeypatch.setitem(METRICS, ROW.name, ROW)
    monkeypatch.setattr(estimators, "_ESTIMATORS", dict(estimators._ESTIMATORS))

    @estimators.estimates(ROW.name)
    def _trial_share(before, after, intervals):
        return intervals.estimate(ROW.name, 0.25, intervals.bounded_mean(np.full(40, 0.25)), 40, method="trial")

    both = (SimpleNamespace(answers=answers()) for _ in range(2))
    return Comparison(
        candidate="nf4",
        prompt_set="boolq",
        n_prompts=40,
        estimates=tuple(prompt_estimates(*both, IntervalSettings(draws=50))),
        identical=False,
        reference_provenance=ANY,
        candidate_provenance=ANY,
        histograms={},
    )


@pytest.fixture
def verdict(comparison):
    """The verdict on the trial metric: it is beyond its limit."""
    return judge(comparison, ROW.name, load_profile("default@2").with_limits([(ROW.name, 0.01)]))


def test_it_is_judged_and_asserted(comparison, verdict):
    """A limit for it can be given, and it has an assertion."""
    assert verdict.status == "failed"
    assert pytest_quantcheck.assert_trial_share(comparison, limit=0.99).status == "passed"
    assert pytest_quantcheck.assert_trial_share.__doc__.startswith(
        "Fail when the trial share is above its limit: share"
    )


def test_every_report_has_it(comparison, verdict):
    """It is in the terminal, in Markdown, in JUnit, in report.json and on the page."""
    pytest.importorskip("matplotlib")
    from pytest_quantcheck.reporting.html import html_report

    facts = {
        "outcome": "failed",
        "profile": "default@2",
        "settings": {},
        "tool_version": "0",
        "created": datetime.now(UTC),
    }
    report = encode_report([verdict], [comparison], **facts)
    page = html_report(msgspec.json.decode(report, type=Report), {}).decode()
    terminal = "\n".join(line for line, _ in summary_lines([verdict], [comparison]))
    markdown = "\n".join(markdown_lines("model", [verdict], [comparison]))
    assert all(f"{ROW.title} of nf4 on boolq is above its limit" in text for text in (terminal, markdown, page))
    assert ROW.meaning in page
    assert ("quantcheck_metric", ROW.name) in verdict_properties(verdict)
    assert f'"metric": "{ROW.name}"' in report.decode()


@pytest.mark.usefixtures("comparison")
def test_reference_and_type_checkers_have_it():
    """`python -m tests.docs.reference` writes it into the reference and into the stub."""
    assert f"`{ROW.name}`" in reference.names()
    assert f"def assert_{ROW.name}(" in reference.stub()
