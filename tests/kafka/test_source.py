"""Reading from a real broker: in order, from what was committed, through rebalances."""

import time
from functools import partial

import pytest
from kafka import KafkaAdminClient, KafkaProducer

from tta_daemon.errors import BrokerUnreachable
from tta_daemon.offline.broker import free_port
from tta_daemon.stream.kafka_sink import KafkaSink
from tta_daemon.stream.kafka_source import KafkaSource
from tta_daemon.stream.records import Message, Partition
from tta_daemon.stream.source import Changes

pytestmark = pytest.mark.kafka

AT_MS = int(time.time() * 1000) - 1234  # brokers delete what is older than their retention
SETTINGS = {"session_timeout_ms": 6000, "heartbeat_interval_ms": 200, "max_poll_interval_ms": 6000}


@pytest.fixture
def produce(broker):
    producer = KafkaProducer(**broker.client)

    def produce(topic, values, partition=0, **more):
        for value in values:
            producer.send(topic, value=value, partition=partition, **more)
        producer.flush(10)

    yield produce
    producer.close(timeout=5)


@pytest.fixture
def open_source(broker):
    sources = []

    def open_source(topic, group, **more):
        sources.append(KafkaSource(broker.client, [topic], group, settings=SETTINGS, **more))
        return sources[-1]

    yield open_source
    for source in sources:
        source.close()


def read(source, count, until):
    """Poll until so many records have come, following the assignment as the loop does."""
    records = []

    def more():
        source.changes()
        records.extend(source.poll(0.2, 500))
        return len(records) >= count

    until(more)
    return records


def numbers(count):
    return [b"%d" % n for n in range(count)]


def test_records_arrive_whole(broker, produce, open_source, until):
    topic = broker.topic()
    produce(topic, [b"pixels"], key=b"cam", headers=[("content-type", b"image/png"), ("id", b"a1")], timestamp_ms=AT_MS)
    produce(topic, [b"more"])
    first, second = read(open_source(topic, broker.name("g")), 2, until)
    assert first.position == (Partition(topic, 0), 0)
    assert (first.key, first.value, first.id, first.timestamp_s) == (b"cam", b"pixels", "a1", AT_MS / 1000)
    assert first.header("content-type") == "image/png"
    assert (second.key, second.headers) == (None, ())


def test_the_next_member_resumes_at_what_was_committed(broker, produce, open_source, until):
    topic, group = broker.topic(), broker.name("g")
    produce(topic, numbers(10))
    source = open_source(topic, group)
    assert [r.value for r in read(source, 10, until)] == numbers(10)
    assert source.commit({Partition(topic, 0): 4})
    assert source.committed([Partition(topic, 0)]) == {Partition(topic, 0): 4}
    source.close()
    again = open_source(topic, group)
    assert [r.value for r in read(again, 6, until)] == numbers(10)[4:]


def test_seek_rewind_and_lag(broker, produce, open_source, until):
    topic = broker.topic()
    place = Partition(topic, 0)
    produce(topic, numbers(10))
    source = open_source(topic, broker.name("g"))
    read(source, 10, until)
    assert source.lag() == {place: 0}
    source.seek(place, 7)
    assert [r.value for r in read(source, 3, until)] == numbers(10)[7:]
    source.rewind([place])  # nothing was committed: back to where we began
    assert [r.value for r in read(source, 10, until)] == numbers(10)
    assert source.commit({place: 5})
    source.rewind([place])
    assert [r.value for r in read(source, 5, until)] == numbers(10)[5:]


def test_paused_partitions_give_nothing_and_are_kept(broker, produce, open_source, until):
    topic = broker.topic(2)
    a, b = Partition(topic, 0), Partition(topic, 1)
    source = open_source(topic, broker.name("g"))
    until(lambda: source.poll(0.1, 1) or source.assignment())
    source.pause([a])
    produce(topic, numbers(5), partition=0)
    produce(topic, numbers(5), partition=1)
    assert {r.position.partition for r in read(source, 5, until)} == {b}
    assert source.poll(0.3, 10) == []
    source.resume([a])
    assert {r.position.partition for r in read(source, 5, until)} == {a}


def test_a_poll_gives_no_more_than_asked_for(broker, produce, open_source, until):
    topic = broker.topic()
    produce(topic, numbers(10))
    source = open_source(topic, broker.name("g"))
    sizes = []
    until(lambda: sizes.append(len(source.poll(0.2, 3))) or sum(sizes) == 10)
    assert max(sizes) <= 3


def test_a_rebalance_is_announced_while_commits_still_count(broker, produce, open_source, until):
    topic, group = broker.topic(2), broker.name("g")
    first = open_source(topic, group)
    produce(topic, numbers(4), partition=0)
    produce(topic, numbers(4), partition=1)
    read(first, 8, until)
    everything = {Partition(topic, 0), Partition(topic, 1)}
    second = open_source(topic, group)
    polled = []

    def announced():
        polled.extend(second.poll(0.0, 10))
        polled.extend(first.poll(0.1, 10))
        changes = first.changes()
        return (changes.revoked or changes.lost) and changes

    changes = until(announced)
    assert (changes.revoked, changes.lost) == (everything, frozenset())
    assert first.assignment() == everything
    in_time = first.commit(dict.fromkeys(everything, 4))  # Kafka accepts it; noida-db is in the next generation already

    def both_have_one():
        polled.extend(first.poll(0.1, 10))
        polled.extend(second.poll(0.1, 10))
        return len(first.assignment()) == len(second.assignment()) == 1 and first.membership.era == 1

    until(both_have_one)
    changes = first.changes()
    assert (len(changes.assigned), changes.revoked) == (1, frozenset())
    assert changes.lost == (set() if in_time else everything)  # a refused commit costs the membership
    second.close()
    until(lambda: polled.extend(first.poll(0.1, 10)) or first.changes().revoked)
    until(lambda: polled.extend(first.poll(0.1, 10)) or first.assignment() == everything)
    if in_time:
        assert polled == []
    else:
        until(lambda: polled.extend(first.poll(0.1, 10)) or len({record.position for record in polled}) == 8)


def test_static_members_that_restart_in_turn_move_nothing(broker, open_source, until):
    """One of them leads the group; kafka-python's leader compares what it shared out with what it hears later."""
    topic, group = broker.topic(2), broker.name("g")
    members = {name: open_source(topic, group, instance=name) for name in ("a", "b")}
    moved = []

    def turned():
        for name, member in members.items():
            member.poll(0.05, 10)
            if changes := member.changes():
                moved.append((name, changes))
        return {name: member.assignment() for name, member in members.items()}

    held = until(lambda: all(len(own) == 1 for own in turned().values()) and turned())
    moved.clear()
    for name, member in list(members.items()):
        member.close()
        back = members[name] = open_source(topic, group, instance=name)
        until(lambda: turned() == held)
        back._consumer.topics()  # what it hears
        for _ in range(3):
            turned()
    assert moved == [(name, Changes(held[name], frozenset(), frozenset())) for name in members]


def test_a_join_that_ends_between_two_polls_is_taken_though_its_reason_is_gone(broker, open_source, until):
    topic = broker.topic(1)
    source = open_source(topic, broker.name("g"))
    until(lambda: source.assignment() or source.poll(0.1, 10))
    admin = KafkaAdminClient(**broker.client)
    admin.create_partitions({topic: 2})
    admin.close()
    until(lambda: len(source._consumer.topics() and source._consumer.partitions_for_topic(topic)) == 2)

    def both():
        source.changes()
        source.poll(0.0, 10)
        return len(source.assignment()) == 2

    until(both)


def test_a_commit_for_lost_partitions_is_refused_not_raised(broker, produce, open_source, until):
    topic, group = broker.topic(), broker.name("g")
    produce(topic, numbers(3))
    source = open_source(topic, group, instance="one")
    read(source, 3, until)
    source._consumer._coordinator.reset_generation()  # what a missed heartbeat does
    assert not source.commit({Partition(topic, 0): 3})
    until(lambda: source.poll(0.1, 10) or source.membership.unseen_loss)
    assert source.poll(0.1, 10) == []
    assert source.changes().lost == {Partition(topic, 0)}
    assert len(read(source, 3, until)) == 3


def test_a_renewed_client_goes_on(broker, produce, open_source, until):
    topic, group = broker.topic(), broker.name("g")
    produce(topic, numbers(6))
    renewals = []
    source = open_source(topic, group, renewed=partial(renewals.append, topic))
    read(source, 6, until)
    source.commit({Partition(topic, 0): 2})
    source.renew()
    assert source.changes().lost == {Partition(topic, 0)}
    assert [r.value for r in read(source, 4, until)] == numbers(6)[2:]
    assert renewals == [topic]


def test_a_client_that_fetches_nothing_is_noticed_and_replaced(broker, produce, open_source, until):
    topic = broker.topic()
    produce(topic, numbers(3))
    renewals = []
    renewed = partial(renewals.append, topic)
    source = open_source(topic, broker.name("g"), instance="one", stuck_after_s=1.0, renewed=renewed)
    read(source, 3, until)
    renewals.clear()  # a slow start may have looked stuck
    source.commit({Partition(topic, 0): 3})
    deaf = source._consumer
    deaf._fetcher.fetch_records = lambda *_, **__: ({}, True)
    produce(topic, numbers(5)[3:])
    assert [record.value for record in read(source, 2, until)] == numbers(5)[3:]
    assert set(renewals) == {topic}  # the new client may start slowly, too
    assert source._consumer is not deaf


def test_an_idle_topic_is_not_taken_for_a_stuck_client(broker, open_source, until):
    topic = broker.topic()
    sink = KafkaSink(broker.client, transactional_id=broker.name("t"))
    for n in range(3):  # a transaction's marker takes an offset that no record will come for
        sink.send(Message(topic, None, b"%d" % n))
    renewals = []
    renewed = partial(renewals.append, topic)
    source = open_source(topic, broker.name("g"), instance="one", stuck_after_s=1.0, renewed=renewed)
    sink.settle(source, {}, 10)
    sink.close()
    read(source, 3, until)
    until(lambda: source.poll(0.1, 10) or source.lag() == {Partition(topic, 0): 0})
    renewals.clear()  # a slow start may have looked stuck
    end = time.monotonic() + 3.0
    while time.monotonic() < end:
        assert source.poll(0.1, 10) == []
    source.pause(source.assignment())
    assert not source.stuck(time.monotonic() + 100)
    assert renewals == []


def test_no_broker_is_said_in_time():
    port = free_port()
    with pytest.raises(BrokerUnreachable, match=f"kafka.bootstrap_servers.*127.0.0.1:{port}"):
        KafkaSource({"bootstrap_servers": f"127.0.0.1:{port}"}, ["x"], "g", connect_timeout_s=0.5)


class Latin(str):
    """A header's name as a careless producer writes it."""

    __slots__ = ()

    def encode(self, *_: str) -> bytes:
        return b"caf\xe9"


def test_a_record_that_cannot_be_read_is_handed_on_as_such_and_holds_nothing_up(broker, produce, open_source, until):
    topic = broker.topic()
    produce(topic, numbers(3))
    produce(topic, [b"good bytes"], headers=[(Latin("cafe"), b"x")])
    produce(topic, numbers(2))
    source = open_source(topic, broker.name("group"))
    records = read(source, 6, until)
    assert sorted(record.position.offset for record in records) == [0, 1, 2, 3, 4, 5]
    (unreadable,) = [record for record in records if record.fault]
    assert (unreadable.position.offset, unreadable.value) == (3, None)
    assert source.commit({Partition(topic, 0): 6})


def test_unreadable_records_in_all_partitions_hold_nothing_up(broker, produce, open_source, until):
    topic = broker.topic(partitions=3)
    for partition in range(3):
        produce(topic, [b"good bytes"], partition, headers=[(Latin("cafe"), b"x")])
        produce(topic, numbers(1), partition)
    source = open_source(topic, broker.name("group"))
    records = read(source, 6, until)
    assert sorted(bool(record.fault) for record in records) == [False] * 3 + [True] * 3


def test_who_was_not_asked_for_long_is_not_stuck(broker, produce, open_source, until):
    topic, renewed = broker.topic(), []
    source = open_source(topic, broker.name("group"), stuck_after_s=60.0, renewed=lambda: renewed.append(1))
    produce(topic, numbers(3))
    read(source, 3, until)
    produce(topic, numbers(3))
    source._polled_at -= 3600.0
    source._moved_at -= 3600.0  # a turn that took an hour
    assert len(read(source, 3, until)) == 3
    assert not renewed


def test_latest_is_where_the_log_ended_when_the_group_first_came_whatever_happens_then(
    broker, produce, open_source, until
):
    topic, group = broker.topic(), broker.name("group")
    produce(topic, numbers(3))
    first = open_source(topic, group, start="latest")
    until(lambda: (first.poll(0.1, 10), first.changes().assigned)[1])
    first.rewind([Partition(topic, 0)])
    until(lambda: not first.poll(0.1, 10) and not first._rewinding)
    assert first.committed([Partition(topic, 0)]) == {Partition(topic, 0): 3}
    first.close()
    produce(topic, numbers(2))  # while nobody reads
    second = open_source(topic, group, start="latest")
    until(lambda: (second.poll(0.1, 10), second.changes().assigned)[1])
    second.rewind([Partition(topic, 0)])
    assert [record.position.offset for record in read(second, 2, until)] == [3, 4]
