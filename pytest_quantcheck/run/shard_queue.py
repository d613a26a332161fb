"""Which shard a worker measures next."""

from __future__ import annotations

from bisect import insort
from collections import defaultdict
from collections.abc import Collection, Sequence


class ShardQueue:
    """The shards of one measurement, handed out to workers, lowest number first.

    Where layers may be given up, shards that attribute wait until the first of them has decided which. No shard is
    handed out that is `ahead` or more places behind the next one to be merged: what is measured early is kept in
    memory. A shard that failed on a worker is measured by another, as long as there is one that has not tried.
    """

    def __init__(self, numbers: Sequence[int], undecided: Collection[int], *, ahead: int) -> None:
        """`undecided`: the shards that attribute, where layers may be given up."""
        self._numbers, self._ahead = list(numbers), ahead
        self._waiting = sorted(numbers)
        self._undecided, self.deciding = frozenset(undecided), min(undecided, default=None)
        self._merged = 0
        self._failed_on: dict[int, list[int]] = defaultdict(list)

    def take(self, worker: int, workers: Collection[int]) -> int | None:
        """Hand out a shard to one of `workers`; None when there is none for it now."""
        window = self._numbers[self._merged : self._merged + self._ahead]
        for number in self._waiting:
            waits = self.deciding is not None and number in self._undecided and number != self.deciding
            failed_here = worker in self._failed_on[number] and set(workers) - set(self._failed_on[number])
            if number in window and not waits and not failed_here:
                self._waiting.remove(number)
                return number
        return None

    def decided(self) -> None:
        """Let the shards go on that waited for the first to attribute."""
        self.deciding = None

    def merged(self) -> None:
        """Count one more shard as merged."""
        self._merged += 1

    def failed(self, number: int, worker: int) -> int:
        """Take a shard back that failed; return how often it has."""
        insort(self._waiting, number)
        self._failed_on[number].append(worker)
        return len(self._failed_on[number])
