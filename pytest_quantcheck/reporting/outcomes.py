"""What a run says of each candidate: whether it may be released, what stands against it and what to do."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from pytest_quantcheck.metrics import METRICS
from pytest_quantcheck.plurals import counted
from pytest_quantcheck.records import WORST_FIRST, Verdict
from pytest_quantcheck.reporting.wording import (
    bound,
    concession,
    headline,
    next_steps,
    number,
    printable,
)


class CandidateOutcome(NamedTuple):
    """One candidate: its verdicts, and for each test that reached none what went wrong."""

    candidate: str
    verdicts: tuple[Verdict, ...]
    causes: tuple[str, ...]

    @property
    def against(self) -> list[Verdict]:
        """The verdicts that stop the release, failed ones first."""
        return sorted((v for v in self.verdicts if not v.acceptable), key=lambda v: WORST_FIRST.index(v.status))

    @property
    def warnings(self) -> list[Verdict]:
        """The verdicts to be looked at that stop nothing."""
        return [verdict for verdict in self.verdicts if verdict.warning]

    @property
    def fit(self) -> bool:
        """Whether nothing stands against the candidate, as far as it was judged."""
        return not (self.against or self.causes)

    @property
    def facts(self) -> str:
        """How many verdicts stand against the candidate, and how many tests reached none."""
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
        """Yield a sentence for everything that stands against the candidate; tests with the same cause share one."""
        yield from dict.fromkeys(map(printable, self.causes))
        yield from map(sentence, self.against)

    def steps(self) -> Iterator[str]:
        """Yield what to do about that."""
        yield from next_steps(self.against)


def outcomes(verdicts: Sequence[Verdict], causes: Mapping[str, Sequence[str]]) -> list[CandidateOutcome]:
    """What is known of each candidate: first those that are not fit for release, then those that could not be judged.

    `causes`: by candidate, what went wrong in each test that reached no verdict.
    """
    candidates = dict.fromkeys((*causes, *(verdict.candidate for verdict in verdicts)))
    found = (
        CandidateOutcome(name, tuple(v for v in verdicts if v.candidate == name), tuple(causes.get(name, ())))
        for name in candidates
    )
    return sorted(found, key=lambda outcome: (not outcome.against, outcome.fit))


def sentence(verdict: Verdict) -> str:
    """What moved where, by how much, and what that means to who has not read the paper."""
    value = verdict.estimate.value
    if value is None:
        why = verdict.estimate.reason
    else:
        why = f"{number(value)}, limit {bound(verdict)} ({METRICS[verdict.metric].meaning})"
    fact = ": ".join(filter(None, (headline(verdict), why)))
    return "; ".join(filter(None, (fact, concession(verdict))))
