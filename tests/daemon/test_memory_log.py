"""The log in memory behaves as Kafka does where the daemon looks."""

import pytest

from tta_daemon.errors import DeliveryError, Fenced
from tta_daemon.stream.memory_log import MemoryLog, MemorySink, MemorySource, MemoryTail
from tta_daemon.stream.records import Message, Partition

A, B = Partition("images", 0), Partition("images", 1)


@pytest.fixture
def log():
    log = MemoryLog({"images": 2, "answers": 1})
    for n in range(6):
        log.append("images", b"%d" % n, partition=n % 2, timestamp_s=float(n))
    return log


def values(records):
    return [record.value for record in records]


def test_a_member_reads_from_what_was_committed(log):
    source = MemorySource(log, ["images"])
    assert values(source.poll(0, 4)) == [b"0", b"2", b"4", b"1"]
    assert source.lag() == {A: 0, B: 2}
    assert source.commit({A: 2})
    source.close()
    again = MemorySource(log, ["images"])
    assert again.committed([A, B]) == {A: 2}
    assert values(again.poll(0, 9)) == [b"4", b"1", b"3", b"5"]


def test_seek_pause_resume(log):
    source = MemorySource(log, ["images"])
    source.pause([A])
    assert values(source.poll(0, 9)) == [b"1", b"3", b"5"]
    source.resume([A])
    source.seek(B, 2)
    assert values(source.poll(0, 9)) == [b"0", b"2", b"4", b"5"]


def test_a_second_member_takes_its_share(log):
    first = MemorySource(log, ["images"])
    first.poll(0, 9)
    assert first.changes().assigned == {A, B}
    second = MemorySource(log, ["images"])
    changes = first.changes()
    assert (changes.revoked, changes.assigned) == ({A, B}, {A})
    assert not first.changes()
    assert second.assignment() == {B}
    assert not first.commit({B: 3})
    assert values(first.poll(0, 9)) == [b"0", b"2", b"4"]
    second.close()
    assert first.assignment() == {A, B}


def test_at_least_once_writes_before_it_commits(log):
    source, sink = MemorySource(log, ["images"]), MemorySink(log)
    sink.send(Message("answers", None, b"x"))
    sink.broken = DeliveryError("no")
    with pytest.raises(DeliveryError):
        sink.settle(source, {A: 1}, 1)
    assert log.records("answers") == []
    assert source.commits == []
    sink.broken = None
    sink.settle(source, {A: 1}, 1)
    assert values(log.records("answers")) == [b"x"]
    assert source.commits == [{A: 1}]


def test_exactly_once_is_all_or_nothing(log):
    source, sink = MemorySource(log, ["images"]), MemorySink(log, exactly_once=True)
    sink.send(Message("answers", None, b"x"))
    sink.flush(1)
    assert log.records("answers") == []
    sink.abandon()
    sink.send(Message("answers", None, b"y"))
    sink.settle(source, {A: 1}, 1)
    assert values(log.records("answers")) == [b"y"]


def test_the_older_of_two_instances_is_fenced(log):
    source = MemorySource(log, ["images"])
    old = MemorySink(log, exactly_once=True)
    old.send(Message("answers", None, b"x"))
    MemorySink(log, exactly_once=True)
    with pytest.raises(Fenced):
        old.settle(source, {A: 1}, 1)
    assert log.records("answers") == []


def test_a_transaction_of_revoked_partitions_is_aborted(log):
    source, sink = MemorySource(log, ["images"]), MemorySink(log, exactly_once=True)
    sink.send(Message("answers", None, b"x"))
    MemorySource(log, ["images"])
    with pytest.raises(DeliveryError):
        sink.settle(source, {B: 1}, 1)
    assert log.records("answers") == []


def test_a_tail_reads_every_partition_from_a_time_on(log):
    tail = MemoryTail(log, "images", since_s=3.0)
    assert values(tail.poll(0, 9)) == [b"4", b"3", b"5"]
    assert tail.poll(0, 9) == []
