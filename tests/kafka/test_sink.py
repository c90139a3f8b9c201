"""Writing to a real broker: delivered before committed, or both as one, or not at all."""

import pytest
from kafka import KafkaConsumer, TopicPartition

from tta_daemon.errors import DeliveryError, Fenced
from tta_daemon.stream.kafka_sink import KafkaSink
from tta_daemon.stream.kafka_source import KafkaSource
from tta_daemon.stream.records import Message, Partition

pytestmark = pytest.mark.kafka

SETTINGS = {"session_timeout_ms": 6000, "heartbeat_interval_ms": 200}


@pytest.fixture
def closing():
    opened = []

    def closing(thing):
        opened.append(thing)
        return thing

    yield closing
    for thing in reversed(opened):
        thing.close()


@pytest.fixture
def sink(broker, closing):
    return lambda **more: closing(KafkaSink(broker.client, connect_timeout_s=10, **more))


@pytest.fixture
def source(broker, closing):
    return lambda topic, group, **more: closing(KafkaSource(broker.client, [topic], group, settings=SETTINGS, **more))


def values(broker, topic, isolation="read_committed"):
    """Everything that a topic with one partition holds, as that isolation level sees it."""
    place = TopicPartition(topic, 0)
    consumer = KafkaConsumer(**broker.client, isolation_level=isolation)
    consumer.assign([place])
    consumer.seek_to_beginning(place)
    end, found = consumer.end_offsets([place])[place], []
    while consumer.position(place) < end and (new := consumer.poll(60_000)):
        found += [record.value for records in new.values() for record in records]
    consumer.close()
    return found


def consumed(source, until, count=1):
    found = []
    until(lambda: (source.changes() and False) or found.extend(source.poll(0.2, 100)) or len(found) >= count)
    return found


def test_at_least_once_delivers_and_commits(broker, sink, source, until):
    images, answers = broker.topic(), broker.topic(what="answers")
    out = sink()
    out.send(Message(images, b"k", b"pixels", (("id", b"1"),)))
    out.flush(10)
    reader = source(images, broker.name("g"))
    (record,) = consumed(reader, until)
    assert (record.key, record.value, record.id) == (b"k", b"pixels", "1")
    out.send(Message(answers, record.key, b"answer"))
    out.settle(reader, {record.position.partition: 1}, 10)
    assert values(broker, answers) == [b"answer"]
    assert reader.committed([Partition(images, 0)]) == {Partition(images, 0): 1}


def test_a_message_without_key_and_value_is_sent_empty(broker, sink):
    topic = broker.topic()
    out = sink()
    out.send(Message(topic, None, None))
    out.flush(10)
    assert values(broker, topic) == [b""]


def test_what_the_broker_refuses_is_a_delivery_error_and_commits_nothing(broker, sink, source, until):
    images, small = broker.topic(), broker.topic(configs={"max.message.bytes": "2000"})
    out = sink()
    out.send(Message(images, None, b"pixels"))
    out.flush(10)
    reader = source(images, broker.name("g"))
    consumed(reader, until)
    out.send(Message(small, None, b"x" * 10_000))
    with pytest.raises(DeliveryError, match="TooLarge"):
        out.settle(reader, {Partition(images, 0): 1}, 10)
    assert reader.committed([Partition(images, 0)]) == {}
    out.abandon()
    out.send(Message(small, None, b"x"))
    out.settle(reader, {Partition(images, 0): 1}, 10)
    assert reader.committed([Partition(images, 0)]) == {Partition(images, 0): 1}


def test_exactly_once_answers_and_offsets_are_one(broker, sink, source, until):
    images, answers = broker.topic(), broker.topic(what="answers")
    place = Partition(images, 0)
    feed = sink()
    for n in range(3):
        feed.send(Message(images, None, b"%d" % n))
    feed.flush(10)
    reader, out = source(images, broker.name("g")), sink(transactional_id=broker.name("t"))
    records = consumed(reader, until, 3)
    out.send(Message(answers, None, b"lost"))
    out.flush(10)
    assert values(broker, answers, "read_uncommitted") == [b"lost"]
    assert values(broker, answers) == []
    out.abandon()
    assert values(broker, answers) == []
    reader.rewind([place])
    assert [record.value for record in consumed(reader, until, 3)] == [record.value for record in records]
    for record in records:
        out.send(Message(answers, None, b"answer " + record.value))
    out.settle(reader, {place: 3}, 10)
    assert values(broker, answers) == [b"answer 0", b"answer 1", b"answer 2"]
    assert reader.committed([place]) == {place: 3}
    out.settle(reader, {}, 10)  # nothing to settle is fine


def test_offsets_alone_are_settled_too(broker, sink, source, until):
    images = broker.topic()
    feed = sink()
    feed.send(Message(images, None, b"x"))
    feed.flush(10)
    reader, out = source(images, broker.name("g")), sink(transactional_id=broker.name("t"))
    consumed(reader, until)
    out.settle(reader, {Partition(images, 0): 1}, 10)
    assert reader.committed([Partition(images, 0)]) == {Partition(images, 0): 1}


def test_the_older_of_two_instances_leaves_and_the_newer_stays(broker, sink, source, until):
    images, answers = broker.topic(), broker.topic(what="answers")
    feed = sink()
    feed.send(Message(images, None, b"x"))
    feed.flush(10)
    reader, name = source(images, broker.name("g")), broker.name("t")
    consumed(reader, until)
    old = sink(transactional_id=name)
    old.send(Message(answers, None, b"old"))
    old.flush(10)
    new = sink(transactional_id=name)
    with pytest.raises(Fenced):
        old.settle(reader, {Partition(images, 0): 1}, 10)
    new.send(Message(answers, None, b"new"))
    new.settle(reader, {Partition(images, 0): 1}, 10)
    assert values(broker, answers) == [b"new"]


def test_the_older_instance_is_fenced_when_it_sends(broker, sink, source, until):
    answers = broker.topic(what="answers")
    reader, name = source(broker.topic(), broker.name("g")), broker.name("t")
    old = sink(transactional_id=name)
    old.send(Message(answers, None, b"first"))
    new = sink(transactional_id=name)

    def go_on():
        for _ in range(3):
            old.send(Message(answers, None, b"old"))
            old.flush(10)
        old.settle(reader, {}, 10)

    with pytest.raises(Fenced):
        go_on()
    new.send(Message(answers, None, b"new"))
    new.settle(reader, {}, 10)
    assert values(broker, answers) == [b"new"]


def test_a_transaction_from_before_a_rebalance_is_refused(broker, sink, source, until):
    images, answers = broker.topic(), broker.topic(what="answers")
    place = Partition(images, 0)
    feed = sink()
    feed.send(Message(images, None, b"x"))
    feed.flush(10)
    reader, out = source(images, broker.name("g"), instance="one"), sink(transactional_id=broker.name("t"))
    consumed(reader, until)
    out.send(Message(answers, None, b"early"))
    reader._consumer._coordinator.reset_generation()  # what a missed heartbeat does
    until(lambda: reader.poll(0.1, 10) or reader.membership.unseen_loss)
    until(lambda: (reader.changes(), reader.poll(0.1, 10))[1])
    with pytest.raises(DeliveryError):
        out.settle(reader, {place: 1}, 10)
    out.abandon()
    reader.rewind([place])
    consumed(reader, until)
    out.send(Message(answers, None, b"once"))
    out.settle(reader, {place: 1}, 10)
    assert values(broker, answers) == [b"once"]
