"""Shards: the parts of a prompt set that are measured one by one, cached, resumed and distributed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pytest_quantcheck.records import Measurement

Shard = tuple[list[int], ...]
"""Batches of positions in the prompt set."""


class FinishedShards(Protocol):
    """Keeper of one measurement's finished shards, by number, from 1, and count."""

    def load_shard(self, number: int, count: int) -> Measurement | None:
        """Load a shard; None where it was not kept, or was damaged."""

    def save_shard(self, number: int, count: int, shard: Measurement) -> None:
        """Keep a shard."""


class NothingFinished:
    """A keeper of shards that keeps none."""

    def load_shard(self, number: int, count: int) -> Measurement | None:
        """Find nothing."""

    def save_shard(self, number: int, count: int, shard: Measurement) -> None:
        """Keep nothing."""


def kept_shard(finished: FinishedShards, number: int, count: int, prompts: list[int]) -> Measurement | None:
    """Load a shard, if the one that is kept has these prompts: another may lie in its place."""
    shard = finished.load_shard(number, count)
    return shard if shard is not None and shard.answers.index.tolist() == prompts else None


def count_for(batches: Sequence[list[int]], shard_size: int) -> int:
    """Choose a number of shards, so that each has about `shard_size` prompts."""
    return min(-(-sum(map(len, batches)) // shard_size), len(batches))


def cut(batches: Sequence[list[int]], count: int) -> list[Shard]:
    """Deal batches out to shards, at most one for each batch.

    Neighbours go to different shards: batches come sorted by length, and so each shard takes about as long.
    """
    return [tuple(batches[number::count]) for number in range(count)]
