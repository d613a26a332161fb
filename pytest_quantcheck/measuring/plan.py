"""What a measurement shall cover, apart from the model and the prompts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, Self

from pytest_quantcheck.options.attribution import AttributionMethod


@dataclass(frozen=True)
class Plan:
    """The part of the settings that decides what a measurement holds.

    `layers`: `paper`, `all` or block numbers; `readout`: `token`, `choices` or `substring`; `samples`: prompts
    to attribute; `tokens`: counted over prompts and nodes, in one evaluation of an attribution; `batch_size`: prompts
    in one forward pass; `shuffle`: seed of which prompts meet in a batch, None for those of like length; `seed`: of the
    neurons followed for intervals, and of those correlated where not all are; `redundancy_neurons`: most neurons
    correlated in a layer, `all`, or `auto`: as many as are affordable; a candidate's are its reference's.
    """

    layers: Literal["paper", "all"] | tuple[int, ...] = "paper"
    readout: str = "token"
    attribution: AttributionMethod = field(default_factory=AttributionMethod)
    samples: int = 64
    tokens: int = 1024
    batch_size: int = 16
    shuffle: int | None = None
    seed: int = 0
    redundancy_neurons: Literal["auto", "all"] | int = "auto"

    def rearranged(self) -> Self:
        """The same measurement in batches of another size, prompts in another order."""
        smaller = self.batch_size // 3 or (2 if self.batch_size == 1 else 1)
        return replace(self, batch_size=smaller, tokens=max(self.tokens // 2, 1), shuffle=self.seed)


class ProgressReporter(Protocol):
    """Who is told how far a measurement is; all do nothing by default."""

    def say(self, what: str, *, log: bool = False) -> None:
        """What is done before the first phase; with `log` also where nobody watches."""

    def start(self, label: str, total: int, done: int = 0) -> None:
        """A phase begins: `label` says what, `total` how many prompts, `done` how many of them an earlier run did."""

    def advance(self, n: int = 1) -> None:
        """So many more prompts are done."""

    def finish(self) -> None:
        """The phase is over."""


class Silent:
    """Nobody is told."""

    def say(self, what: str, *, log: bool = False) -> None:
        """Say nothing."""

    def start(self, label: str, total: int, done: int = 0) -> None:
        """Say nothing."""

    def advance(self, n: int = 1) -> None:
        """Say nothing."""

    def finish(self) -> None:
        """Say nothing."""
