"""Outcome for each candidate: may it be released, what speaks against it, what to do."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from pytest_quantcheck.errors import printable
from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.plurals import counted, plural, shortened
from pytest_quantcheck.records import WORST_FIRST, NotRun, Verdict
from pytest_quantcheck.reporting.wording import (
    bound,
    headline,
    next_steps,
    number,
    reason_to_accept,
)


class CandidateOutcome(NamedTuple):
    """One candidate's verdicts, and the cause of each test without a verdict."""

    candidate: str
    verdicts: tuple[Verdict, ...]
    causes: tuple[str, ...]

    @property
    def against(self) -> list[Verdict]:
        """The verdicts that stop the release, failed ones first."""
        return sorted((v for v in self.verdicts if not v.acceptable), key=lambda v: WORST_FIRST.index(v.status))

    @property
    def warnings(self) -> list[Verdict]:
        """The verdicts that need attention and stop nothing."""
        return [verdict for verdict in self.verdicts if verdict.warning]

    @property
    def fit(self) -> bool:
        """Whether no verdict and no failed test speaks against the candidate."""
        return not (self.against or self.causes)

    @property
    def facts(self) -> str:
        """The numbers of verdicts against the candidate and of tests without one."""
        judged = counted(len(self.verdicts), "verdict")
        against = f"{len(self.against)} of {judged} against it" if self.against else ""
        unjudged = f"{counted(len(self.causes), 'test')} without a verdict" if self.causes else ""
        nothing = f"nothing against it in {judged}" if self.verdicts and not self.against else ""
        return ", ".join(filter(None, (against, unjudged, nothing)))

    @property
    def title(self) -> str:
        """The outcome in a sentence without its full stop."""
        if self.fit:
            return f"{self.candidate}: {self.facts}"
        return f"{self.candidate} {'is not fit for release' if self.against else 'could not be judged'}: {self.facts}"

    def objections(self) -> Iterator[str]:
        """Yield a sentence for each objection to a release; tests with the same cause share one."""
        yield from dict.fromkeys(map(printable, self.causes))
        yield from map(sentence, self.against)

    def steps(self) -> Iterator[str]:
        """Yield what to do about the objections."""
        yield from next_steps(self.against)


def outcomes(verdicts: Sequence[Verdict], causes: Mapping[str, Sequence[str]]) -> list[CandidateOutcome]:
    """Return the outcome for each candidate.

    Candidates that are not fit for release come first, then those that could not be judged. `causes`: for each
    candidate, what went wrong in each test without a verdict.
    """
    candidates = dict.fromkeys((*causes, *(verdict.candidate for verdict in verdicts)))
    found = (
        CandidateOutcome(name, tuple(v for v in verdicts if v.candidate == name), tuple(causes.get(name, ())))
        for name in candidates
    )
    return sorted(found, key=lambda outcome: (not outcome.against, outcome.fit))


def sentence(verdict: Verdict) -> str:
    """Describe a verdict in one sentence: metric, value, limit and what the value means."""
    value = verdict.estimate.value
    if value is None:
        why = verdict.estimate.reason
    else:
        why = f"{number(value)}, limit {bound(verdict)} ({METRICS[verdict.metric].meaning})"
    fact = ": ".join(filter(None, (headline(verdict), why)))
    return "; ".join(filter(None, (fact, reason_to_accept(verdict))))


def not_run_sentence(not_run: Sequence[NotRun]) -> str:
    """Say which tests of a gate were not run; empty where all were."""
    if not not_run:
        return ""
    n = sum(len(one.tests) for one in not_run)
    wholes = [one.candidate for one in not_run if one.whole]
    tests = [test for one in not_run if not one.whole for test in one.tests]
    parts = (f"every test of {shortened(wholes)}" if wholes else "", shortened(tests) if tests else "")
    return printable(
        f"a part of the gate: {counted(n, 'test')} {plural(n, 'was', 'were')} not run, and no release follows from the "
        f"others ({'; '.join(filter(None, parts))})"
    )
