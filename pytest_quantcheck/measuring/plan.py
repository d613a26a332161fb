"""The plan of a measurement: all settings but the model and the prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, Self

from pytest_quantcheck.options.attribution import AttributionMethod


@dataclass(frozen=True)
class Plan:
    """Settings that decide what a measurement contains."""

    layers: Literal["paper", "all"] | tuple[int, ...] = "paper"
    """`paper`, `all` or block numbers."""
    readout: str = "token"
    """`token`, `choices` or `substring`."""
    attribution: AttributionMethod = field(default_factory=AttributionMethod)
    samples: int = 64
    """Prompts to attribute."""
    tokens: int = 1024
    """Tokens in one evaluation of an attribution, counted over prompts and nodes."""
    continuation: int = 0
    """Most tokens by which the reference continues a prompt; they are scored. 0 for none."""
    batch_size: int = 16
    """Prompts in one forward pass."""
    shard_size: int = 128
    """Prompts in a shard, about: it has whole batches. A run that is killed loses no more than the shard it was in."""
    shard: tuple[int, int] | None = None
    """Number, from 1, and count of the shard to measure alone, of any size; None for all shards."""
    shuffle: int | None = None
    """Seed of which prompts meet in a batch, None for those of like length."""
    seed: int = 0
    """Of the neurons followed for intervals, and of those correlated where not all are."""
    redundancy_neurons: Literal["auto", "all"] | int = "auto"
    """Most neurons correlated in a layer, `all`, or `auto`: as many as are affordable; a candidate's are its
    reference's."""

    def rearranged(self) -> Self:
        """Change the plan to smaller batches and another prompt order."""
        smaller = self.batch_size // 3 or (2 if self.batch_size == 1 else 1)
        return replace(self, batch_size=smaller, tokens=max(self.tokens // 2, 1), shuffle=self.seed)


class ProgressReporter(Protocol):
    """Receiver of the progress of a measurement."""

    def say(self, what: str, *, log: bool = False) -> None:
        """Report what is done before the first phase; with `log` also where output is not interactive."""

    def note(self, what: str) -> None:
        """Report something about the measurement that stays to be read."""

    def start(self, label: str, total: int) -> None:
        """Begin a phase: what is done, and with how many prompts."""

    def advance(self, n: int = 1) -> None:
        """Count `n` more prompts as done."""

    def decided(self, hopeless: frozenset[int]) -> None:
        """Say at which layers attribution is given up: once, in the middle of the first shard that attributes."""

    def workers(self, lines: Sequence[str]) -> None:
        """Say what each worker does, below what is done in all."""

    def finish(self) -> None:
        """End the phase."""


class NoProgress:
    """A progress reporter that reports nothing."""

    def say(self, what: str, *, log: bool = False) -> None:
        """Report nothing."""

    def note(self, what: str) -> None:
        """Report nothing."""

    def start(self, label: str, total: int) -> None:
        """Report nothing."""

    def advance(self, n: int = 1) -> None:
        """Report nothing."""

    def decided(self, hopeless: frozenset[int]) -> None:
        """Report nothing."""

    def workers(self, lines: Sequence[str]) -> None:
        """Report nothing."""

    def finish(self) -> None:
        """Report nothing."""
