"""Whatever workers do, every shard is measured once, and those that must wait for a decision do."""

from hypothesis import given
from hypothesis import strategies as st

from pytest_quantcheck.run.shard_queue import ShardQueue

BOTH = (1, 2)


def test_others_wait_for_the_first_to_decide():
    """Shards without a sampled prompt need not; then all go on."""
    queue = ShardQueue([1, 2, 3, 4], {2: 1, 4: 3}, adaptive=True, ahead=4)
    assert [queue.take(1, BOTH) for _ in range(3)] == [2, 1, 3]
    assert [queue.is_undecided(number) for number in (1, 2, 3, 4)] == [False, False, False, True]
    queue.decided()
    assert queue.take(1, BOTH) == 4
    assert not queue.is_undecided(4)


def test_shards_are_begun_while_they_wait():
    """At most its share by each worker, which goes on with them; another measures those that nobody began first."""
    queue = ShardQueue(range(1, 8), dict.fromkeys(range(1, 8), 1), adaptive=True, ahead=4)
    assert queue.take(1, BOTH) == 1
    for shard in (2, 3):
        assert queue.take(2, BOTH) == shard
        assert queue.is_undecided(shard)
        queue.begun(shard, worker=2)
    assert queue.take(2, BOTH) is None
    queue.decided()
    assert queue.take(1, BOTH) == 4
    queue.ahead = 6
    assert [queue.take(2, BOTH) for _ in range(1)] == [2]
    assert [queue.take(1, BOTH) for _ in range(4)] == [5, 6, 3, None]


def test_nothing_is_measured_too_far_ahead():
    """What waits for its turn is in memory."""
    queue = ShardQueue(range(1, 9), {}, adaptive=True, ahead=2)
    assert [queue.take(1, BOTH) for _ in range(3)] == [1, 2, None]
    queue.merged()
    assert [queue.take(1, BOTH) for _ in range(2)] == [3, None]


def test_shards_that_take_longest_come_first_in_the_end():
    """Once all that are left may be handed out; before, what is merged next is wanted first."""
    queue = ShardQueue(range(1, 7), {2: 3, 3: 1, 5: 4}, adaptive=False, ahead=4)
    assert [queue.take(1, BOTH) for _ in range(2)] == [1, 2]
    queue.merged()
    queue.merged()
    assert [queue.take(1, BOTH) for _ in range(5)] == [5, 3, 4, 6, None]


def test_failed_shard_is_measured_elsewhere():
    """By another worker while there is one that has not tried, and then by whichever comes."""
    queue = ShardQueue([1], {}, adaptive=True, ahead=1)
    assert queue.take(1, BOTH) == 1
    assert queue.failed(1, worker=1) == 1
    assert queue.take(1, BOTH) is None
    assert queue.take(2, BOTH) == 1
    assert queue.failed(1, worker=2) == 2
    assert queue.take(1, BOTH) == 1
    assert queue.failed(1, worker=1) == 3
    assert queue.take(1, [1]) == 1


@given(st.data(), st.integers(1, 12), st.integers(1, 4), st.integers(1, 4))
def test_every_shard_is_measured_once(data, count, workers, ahead):
    """Shards end in any order, and some fail first."""
    attributing = data.draw(st.dictionaries(st.integers(1, count), st.integers(1, 9)))
    queue = ShardQueue(range(1, count + 1), attributing, adaptive=True, ahead=ahead)
    staff, busy, arrived, attributed, merged = range(workers), {}, set(), [], 0
    failures = data.draw(st.lists(st.booleans(), max_size=20))
    while merged < count:
        for worker in staff:
            if worker not in busy and (shard := queue.take(worker, staff)) is not None:
                busy[worker] = shard
        assert busy, "nobody has anything to do, and shards are left"
        worker = data.draw(st.sampled_from(sorted(busy)))
        shard = busy.pop(worker)
        if failures and failures.pop():
            queue.failed(shard, worker)
            continue
        if queue.is_undecided(shard):
            queue.begun(shard, worker)
            continue
        assert shard not in arrived
        assert shard < merged + 1 + ahead
        arrived.add(shard)
        if shard in attributing:
            attributed.append(shard)
        if shard == queue.deciding:
            queue.decided()
        while merged + 1 in arrived:
            queue.merged()
            merged += 1
    assert sorted(attributed) == sorted(attributing)
    assert attributed[:1] == sorted(attributing)[:1]
