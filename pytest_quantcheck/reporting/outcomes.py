"""Outcome for each candidate: may it be released, what speaks against it, what to do."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pytest_quantcheck.errors import printable
from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.records import WORST_FIRST, NotRun, Verdict
from pytest_quantcheck.reporting.prompt_sets import gap_sentences
from pytest_quantcheck.reporting.report import Report
from pytest_quantcheck.reporting.wording import (
    bound,
    headline,
    next_steps,
    number,
    reason_to_accept,
)
from pytest_quantcheck.text import counted, plural, shortened


class CandidateOutcome(NamedTuple):
    """One candidate's verdicts, and the cause of each test without a verdict.

    `not_gated`: the number of metrics that have no limit in this case; `not_run`: of tests that were
    left out.
    """

    candidate: str
    verdicts: tuple[Verdict, ...]
    causes: tuple[str, ...]
    not_gated: int = 0
    not_run: int = 0

    @property
    def against(self) -> list[Verdict]:
        """The verdicts that stop the release, failed ones first."""
        return sorted((v for v in self.verdicts if not v.acceptable), key=lambda v: WORST_FIRST.index(v.status))

    @property
    def warnings(self) -> list[Verdict]:
        """The verdicts that need attention and stop nothing."""
        return [verdict for verdict in self.verdicts if verdict.warning]

    @property
    def unfit(self) -> bool:
        """Whether a measured value speaks against the candidate."""
        return any(verdict.status != "unmeasured" for verdict in self.against)

    @property
    def fit(self) -> bool:
        """Whether no verdict and no failed test speaks against the candidate."""
        return not (self.against or self.causes)

    @property
    def facts(self) -> str:
        """The numbers of tests by how they ended."""
        ends = Counter("passed with a warning" if v.warning else v.status for v in self.verdicts)
        counts = {word: ends[word] for word in (*WORST_FIRST, "passed with a warning")}
        facts = [f"{n:,} {word}" for word, n in counts.items() if n]
        facts += [f"{counted(len(self.causes), 'test')} without a verdict"] if self.causes else []
        facts += [f"{self.not_gated:,} not gated"] if self.not_gated else []
        facts += [f"{self.not_run:,} not run"] if self.not_run else []
        return ", ".join(facts)

    @property
    def decision(self) -> str:
        """What follows for the candidate."""
        if self.unfit:
            return "not fit for release"
        if not self.fit:
            return "could not be judged"
        return "met every limit that was tested" if self.not_run else "may be released"

    @property
    def title(self) -> str:
        """The outcome in a sentence without its full stop."""
        return f"{self.candidate}: {self.decision} ({self.facts})"

    def objections(self) -> Iterator[str]:
        """Yield a sentence for each objection to a release; tests with the same cause share one."""
        yield from dict.fromkeys(map(printable, self.causes))
        yield from map(sentence, self.against)

    def objections_by_name(self) -> Iterator[str]:
        """Yield the objections where each verdict's own sentence stands elsewhere: a line for each status."""
        yield from dict.fromkeys(map(printable, self.causes))
        for status in WORST_FIRST:
            if named := [_verdict_name(verdict) for verdict in self.against if verdict.status == status]:
                yield f"{status}: {', '.join(named)}"

    def steps(self) -> Iterator[str]:
        """Yield what to do about the objections."""
        yield from next_steps(self.against)


def outcomes(report: Report) -> list[CandidateOutcome]:
    """Decide the outcome for each candidate of which a test was run.

    Candidates that are not fit for release come first, then those that could not be judged.
    """
    left_out = {omission.candidate: len(omission.tests) for omission in report.not_run}
    candidates = dict.fromkeys((*(verdict.candidate for verdict in report.verdicts), *report.causes))
    unsorted = (
        CandidateOutcome(
            name,
            tuple(verdict for verdict in report.verdicts if verdict.candidate == name),
            tuple(report.causes.get(name, ())),
            not_gated=0 if name in left_out else _count_not_gated(name, report),
            not_run=left_out.get(name, 0),
        )
        for name in candidates
    )
    return sorted(unsorted, key=lambda outcome: (not outcome.unfit, outcome.fit))


def _count_not_gated(candidate: str, report: Report) -> int:
    judged = {(verdict.prompt_set, verdict.metric) for verdict in report.verdicts if verdict.candidate == candidate}
    own = (comparison for comparison in report.comparisons if comparison.candidate == candidate)
    return len(
        {(comparison.prompt_set, estimate.metric) for comparison in own for estimate in comparison.estimates} - judged
    )


def _verdict_name(verdict: Verdict) -> str:
    """Name a verdict's metric, layer and prompt set."""
    layer = verdict.estimate.layer
    place = "" if layer is None else f" at layer {layer}"
    return printable(f"{METRICS[verdict.metric].title} on {verdict.prompt_set}{place}")


def sentence(verdict: Verdict) -> str:
    """Describe a verdict in one sentence: metric, value, limit and what the value means."""
    value = verdict.estimate.value
    if value is None:
        why = verdict.estimate.reason
    else:
        why = f"{number(value)}, limit {bound(verdict)} ({METRICS[verdict.metric].meaning})"
    fact = ": ".join(filter(None, (headline(verdict), why)))
    return "; ".join(filter(None, (fact, reason_to_accept(verdict))))


def cautions(report: Report) -> Iterator[str]:
    """Yield what keeps good verdicts from meaning a release.

    These are tests that were not run, and metrics that the reference's answers cannot show.
    """
    if report.not_run:
        yield _not_run_sentence(report.not_run)
    yield from gap_sentences(report)


def _not_run_sentence(not_run: Sequence[NotRun]) -> str:
    n = sum(len(omission.tests) for omission in not_run)
    wholes = [omission.candidate for omission in not_run if omission.whole]
    tests = [test for omission in not_run if not omission.whole for test in omission.tests]
    parts = (f"every test of {shortened(wholes)}" if wholes else "", shortened(tests) if tests else "")
    return printable(
        f"a part of the gate: {counted(n, 'test')} {plural(n, 'was', 'were')} not run "
        f"({'; '.join(filter(None, parts))}), and what {plural(n, 'it tests', 'they test')} is not decided"
    )
