"""Batches are full or out of patience, of one stream, in order, and lose nothing."""

from collections import Counter
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tta_daemon.stream.batching import Batcher
from tta_daemon.stream.records import Partition, Position, Record, Sample


def sample(offset, *, images=1, stream="", partition=0, learned=False):
    record = Record(Position(Partition("images", partition), offset), None, b"")
    return Sample(record, stream, np.zeros((images, 3, 2, 2), np.uint8), learned)


def offsets(batches):
    return [[record.position.offset for record in batch.records] for batch in batches]


def test_a_full_batch_is_due_at_once():
    batcher = Batcher(size=2, patience_s=10)
    for n in range(5):
        batcher.add(sample(n), now=0)
    assert batcher.deadline(now=0) == 0
    assert offsets(batcher.due(now=0)) == [[0, 1], [2, 3]]
    assert batcher.waiting == 1


def test_patience_counts_from_the_first_that_waits():
    batcher = Batcher(size=4, patience_s=1)
    batcher.add(sample(0), now=0)
    batcher.add(sample(1), now=0.9)
    assert batcher.due(now=0.99) == []
    assert batcher.deadline(now=0.75) == 0.25
    assert offsets(batcher.due(now=1.0)) == [[0, 1]]
    assert batcher.deadline(now=1.0) is None


def test_what_was_learned_from_before_does_not_mix_with_what_was_not():
    batcher = Batcher(size=4, patience_s=1)
    for n in range(9):
        batcher.add(sample(n, learned=n < 3), now=0)
    batches = batcher.due(now=0)
    assert offsets(batches) == [[0, 1, 2], [3, 4, 5, 6]]
    assert [batch.learned for batch in batches] == [True, False]


def test_streams_do_not_mix():
    batcher = Batcher(size=2, patience_s=1)
    for n, stream in enumerate("abab"):
        batcher.add(sample(n, stream=stream), now=0)
    assert [(batch.stream, batch.size) for batch in batcher.due(now=0)] == [("a", 2), ("b", 2)]


def test_a_record_of_many_images_is_never_cut():
    batcher = Batcher(size=4, patience_s=1)
    for n, images in enumerate([3, 2, 9, 1]):
        batcher.add(sample(n, images=images), now=0)
    assert offsets(batcher.due(now=0)) == [[0], [1], [2]]  # closed because the next one does not fit
    assert offsets(batcher.drain()) == [[3]]


def test_dropped_partitions_are_gone():
    batcher = Batcher(size=9, patience_s=1)
    for n in range(4):
        batcher.add(sample(n, partition=n % 2), now=0)
    assert batcher.drop([Partition("images", 1)]) == 2
    assert offsets(batcher.drain()) == [[0, 2]]


def test_size_and_patience_change_while_samples_wait():
    batcher = Batcher(size=9, patience_s=9)
    batcher.add(sample(0), now=0)
    batcher.add(sample(1), now=0)
    batcher.size = 2
    assert offsets(batcher.due(now=0)) == [[0, 1]]


@given(
    st.lists(st.tuples(st.integers(1, 5), st.sampled_from("abc"), st.floats(0, 0.5)), max_size=60),
    st.integers(1, 8),
)
def test_nothing_is_lost_doubled_or_reordered(arrivals, size):
    batcher, now, seen = Batcher(size, patience_s=1.0), 0.0, {}
    for n, (images, stream, pause) in enumerate(arrivals):
        now += pause
        batcher.add(sample(n, images=images, stream=stream), now)
        for batch in batcher.due(now):
            seen.setdefault(batch.stream, []).append(batch)
        assert (wait := batcher.deadline(now)) is None or 0 < wait <= 1.0 + 1e-9
        assert batcher.waiting < size * 3
    for batch in batcher.drain():
        seen.setdefault(batch.stream, []).append(batch)
    for stream, batches in seen.items():
        assert [offset for batch in offsets(batches) for offset in batch] == [
            n for n, a in enumerate(arrivals) if a[1] == stream
        ]
        assert all(batch.size <= size or len(batch.samples) == 1 for batch in batches)
    assert sum(len(b) for bs in seen.values() for b in offsets(bs)) == len(arrivals)


@given(
    st.lists(st.tuples(st.integers(1, 3), st.sampled_from("abcd"), st.floats(0, 0.2)), max_size=80),
    st.integers(1, 4),
)
def test_those_that_are_due_take_turns_and_nobody_waits_past_its_patience(arrivals, size):
    batcher, now = Batcher(size, patience_s=1.0), 0.0
    waiting = {}
    for n, (images, stream, pause) in enumerate(arrivals):
        now += pause
        batcher.add(sample(n, images=images, stream=stream), now)
        waiting[n] = now
        if n % 20 < 19:
            continue  # a turn that took long
        due, turns = batcher.due(now), {}
        for at, batch in enumerate(due):
            turns[batch.stream] = turns.get(batch.stream, 0) + 1
            still_due = {later.stream for later in due[at:]} - {batch.stream}
            assert all(turns[batch.stream] <= turns.get(other, 0) + 1 for other in still_due)
            for offset in offsets([batch])[0]:
                del waiting[offset]
        assert all(since + 1.0 > now for since in waiting.values())


def test_a_busy_stream_does_not_go_before_a_quiet_one_twice():
    batcher = Batcher(size=2, patience_s=1)
    for n in range(8):
        batcher.add(sample(n, stream="busy"), now=0)
    batcher.add(sample(8, stream="quiet"), now=0.5)
    assert [batch.stream for batch in batcher.due(now=1.5)] == ["busy", "quiet", "busy", "busy", "busy"]


def test_a_name_in_two_partitions_is_two_streams():
    batcher = Batcher(size=2, patience_s=1)
    for n in range(4):
        place = Partition("images", n % 2)
        batcher.add(replace(sample(n, stream="cam", partition=n % 2), home=place), now=0)
    batches = batcher.due(now=0)
    assert offsets(batches) == [[0, 2], [1, 3]]
    assert [batch.of.home.number for batch in batches] == [0, 1]


def test_what_is_put_back_is_due_first_and_in_its_order():
    batcher = Batcher(2, 10.0)
    for offset in range(5):
        batcher.add(sample(offset), now=float(offset))
    taken = batcher.due(now=5.0)
    assert offsets(taken) == [[0, 1], [2, 3]]
    batcher.put_back(taken[1:])
    assert batcher.deadline(5.0) == 0.0
    assert offsets(batcher.due(now=5.0)) == [[2, 3]]
    assert offsets(batcher.drain()) == [[4]]


def test_of_many_streams_that_are_put_back_again_and_again_all_have_their_turn():
    batcher, answered, now = Batcher(8, 0.2), Counter(), 0.0
    for turn in range(20):
        for camera in range(30):
            batcher.add(sample(turn * 30 + camera, stream=f"s{camera}"), now)
        due = batcher.due(now + 0.2)
        for batch in due[:10]:  # as many as there is time for
            answered[batch.stream] += 1
            now += 0.5
        batcher.put_back(due[10:])
    assert len(answered) == 30
    assert max(answered.values()) - min(answered.values()) <= 1
