"""The packaged suite that `--quantcheck-model` collects: one test per metric, candidate and prompt set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from .errors import QuantcheckError
from .gate import Gate
from .records import Comparison, Verdict

SUITE = "quantcheck"


class AcceptanceSuite(pytest.Collector):
    """All items of a gate, candidate after candidate, so that each model is loaded once."""

    gate: Gate

    @classmethod
    def of(cls, session: pytest.Session, gate: Gate) -> AcceptanceSuite:
        """The suite of one gate."""
        suite: AcceptanceSuite = cls.from_parent(session, name=SUITE, nodeid=SUITE)
        suite.gate = gate
        return suite

    def collect(self) -> Iterator[AcceptanceItem]:
        """Yield one item for each candidate, prompt set and metric."""
        for candidate in self.gate.candidates:
            for prompts in self.gate.prompt_sets:
                for metric in self.gate.metrics:
                    yield AcceptanceItem.of(self, metric, candidate, prompts)


class AcceptanceItem(pytest.Item):
    """One metric of one candidate on one prompt set."""

    metric: str
    candidate: str
    prompts: str
    verdict: Verdict | None = None
    comparison: Comparison | None = None

    @classmethod
    def of(cls, suite: AcceptanceSuite, metric: str, candidate: str, prompts: str) -> AcceptanceItem:
        """The item of that name."""
        item: AcceptanceItem = cls.from_parent(suite, name=f"test_{metric}[{candidate}-{prompts}]")
        item.metric, item.candidate, item.prompts = metric, candidate, prompts
        return item

    def runtest(self) -> None:
        """Measure what has not been measured yet, compare and judge.

        An unmet limit fails with the verdict's text; a layer for which the profile has no limit is skipped.
        """
        from .assertions import assert_metric  # noqa: PLC0415 - heavy

        gate: Gate = self.parent.gate  # type: ignore[union-attr]
        self.comparison = gate.compare(self.candidate, self.prompts)
        self.verdict = gate.judge(self.metric, self.candidate, self.prompts)
        if self.verdict is None:
            pytest.skip(f"{gate.profile.label} has no limit for {self.metric} in this case")
        assert_metric(self.comparison, self.metric)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException]) -> Any:  # type: ignore[override]
        """The sentence alone for what was expected to be able to go wrong; a traceback for all else."""
        if isinstance(excinfo.value, QuantcheckError | AssertionError):
            return str(excinfo.value)
        return super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Where pytest says the item is from."""
        return Path(__file__), None, f"{SUITE}::{self.name}"


def select(items: Sequence[pytest.Item], wanted: Sequence[str]) -> list[pytest.Item]:
    """The items that node ids from the command line name: the suite, a test, or a test with its parameters.

    Raises:
        pytest.UsageError: a node id that names nothing.
    """
    chosen: list[pytest.Item] = []
    for nodeid in wanted:
        named = [item for item in items if _is_named(item, nodeid)]
        if not named:
            known = ", ".join(str(item.nodeid) for item in items[:3])
            raise pytest.UsageError(f"not found: {nodeid} (the packaged suite has {len(items)} items: {known}, …)")
        chosen += [item for item in named if item not in chosen]
    return chosen


def is_suite(argument: str) -> bool:
    """Whether a command-line argument is a node id of the packaged suite."""
    return argument == SUITE or argument.startswith(f"{SUITE}::")


def _is_named(item: pytest.Item, nodeid: str) -> bool:
    whole = str(item.nodeid)
    return nodeid in (SUITE, whole, whole.split("[", maxsplit=1)[0])
