"""Which shard a worker measures next."""

from __future__ import annotations

from bisect import insort
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence


class ShardQueue:
    """The shards of one measurement, handed out to workers, lowest number first.

    In the end, once all that are left may be handed out, those that attribute most prompts come first: they take
    longest, and whoever waits for the last one waits for a short one. Where layers may be given up, shards that
    attribute wait until the first of them has decided which, after a few prompts; workers begin them meanwhile. No
    shard is handed out that is `ahead` or more places behind the next one to be merged: what is measured early or begun
    is kept in memory. `ahead` may be changed. A shard that failed on a worker is measured by another, as long as there
    is one that has not tried.
    """

    def __init__(self, numbers: Sequence[int], attributed: Mapping[int, int], *, adaptive: bool, ahead: int) -> None:
        """`attributed`: prompts to attribute, for shards that have any; `adaptive`: layers may be given up."""
        self._numbers, self._attributed, self.ahead = list(numbers), dict(attributed), ahead
        self._waiting = sorted(numbers)
        self.deciding = min(attributed, default=None) if adaptive else None
        self._merged = 0
        self._begun_by: dict[int, int] = {}
        self._failed_on: dict[int, list[int]] = defaultdict(list)

    def take(self, worker: int, workers: Collection[int]) -> int | None:
        """Hand out a shard to one of `workers`; None when there is none for it now.

        One that `is_undecided` is only to be begun. A worker goes on with what it has begun before it begins others',
        which it does in the end: who began them may be lost.
        """
        window = self._numbers[self._merged : self._merged + self.ahead]
        others = set(workers) - {worker}
        mine = [
            number
            for number in self._waiting
            if number in window and (worker not in self._failed_on[number] or others.issubset(self._failed_on[number]))
        ]
        decided = [number for number in mine if not self.is_undecided(number)]
        if decided:
            chosen = min(decided, key=lambda number: (self._begun_by.get(number, worker) != worker, self._rank(number)))
            self._begun_by.pop(chosen, None)
        else:
            share = self.ahead // len(workers) - list(self._begun_by.values()).count(worker)
            new = [number for number in mine if number not in self._begun_by]
            if share <= 0 or not new:
                return None
            chosen = new[0]
        self._waiting.remove(chosen)
        return chosen

    def is_undecided(self, number: int) -> bool:
        """Whether a shard waits for the first that attributes."""
        return self.deciding is not None and number in self._attributed and number != self.deciding

    def decided(self) -> None:
        """Let the shards go on that waited for the first to attribute."""
        self.deciding = None

    def begun(self, number: int, worker: int) -> None:
        """Take a shard back that a worker has begun."""
        insort(self._waiting, number)
        self._begun_by[number] = worker

    def merged(self) -> None:
        """Count one more shard as merged."""
        self._merged += 1

    def failed(self, number: int, worker: int) -> int:
        """Take a shard back that failed; return how often it has."""
        insort(self._waiting, number)
        self._failed_on[number].append(worker)
        return len(self._failed_on[number])

    def _rank(self, number: int) -> tuple[int, int]:
        """Order shards that may be handed out now: by number, or in the end those that take longest first."""
        in_the_end = self._merged + self.ahead >= len(self._numbers)
        return -self._attributed.get(number, 0) if in_the_end else 0, number
