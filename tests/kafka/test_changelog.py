"""States in a topic of a real broker: made compacted, read to its end, final with the answers."""

import pytest
import torch
from kafka import KafkaConsumer, TopicPartition

from tta_daemon.control import checkpoint_kafka
from tta_daemon.control.checkpoint_kafka import KafkaCheckpoint
from tta_daemon.control.snapshot import Snapshot
from tta_daemon.errors import BrokerUnreachable, CheckpointError
from tta_daemon.offline.broker import create_topics, free_port
from tta_daemon.stream.kafka_changelog import ensure, read_all
from tta_daemon.stream.kafka_sink import KafkaSink
from tta_daemon.stream.kafka_source import KafkaSource
from tta_daemon.stream.records import Message, Partition

pytestmark = pytest.mark.kafka


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
def topic(broker):
    name = broker.name("state")
    ensure(broker.client, name)
    return name


def checkpoint_on(broker, topic, sink, owner=""):
    return KafkaCheckpoint(sink, topic, lambda: read_all(broker.client, topic, patience_s=20), owner)


def snapshot(step, size=4):
    return Snapshot("", {"w": torch.full((size,), float(step))}, {Partition("images", 0): step}, {"method": "tent"})


def step_of(found):
    return None if found is None else int(found.memory["w"][0])


def values(broker, topic):
    return [record.value for record in read_all(broker.client, topic, patience_s=20)]


def test_a_missing_topic_is_made_and_one_that_is_there_is_left_alone(broker, topic):
    ensure(broker.client, topic)
    assert values(broker, topic) == []


def test_a_broker_that_is_away_is_told_from_a_topic_that_cannot_be_read(monkeypatch):
    monkeypatch.setattr("tta_daemon.stream.kafka_changelog.CALL_S", 0.5)
    monkeypatch.setattr("tta_daemon.stream.kafka_reading.CALL_S", 0.5)
    nowhere = {"bootstrap_servers": f"127.0.0.1:{free_port()}"}
    with pytest.raises(BrokerUnreachable):
        ensure(nowhere, "state")
    with pytest.raises(CheckpointError, match=r"checkpoint\.topic: 'state' cannot be read"):
        list(read_all(nowhere, "state"))


def test_all_partitions_are_read_to_the_end_behind_control_records_too(broker, closing):
    topic = broker.name("state")
    create_topics(broker.client, {topic: 3})
    sink = closing(KafkaSink(broker.client))
    for n in range(300):
        sink.send(Message(topic, b"%d" % (n % 7), b"%d" % n))
    sink.flush(10)
    assert sorted(values(broker, topic)) == sorted(b"%d" % n for n in range(300))
    transactional = closing(KafkaSink(broker.client, transactional_id=broker.name("t")))
    source = closing(KafkaSource(broker.client, [broker.topic()], broker.name("g")))
    transactional.send(Message(topic, b"k", b"settled"))
    transactional.settle(source, {}, 10)
    assert len(values(broker, topic)) == 301
    transactional.send(Message(topic, b"k", b"aborted"))
    transactional.flush(10)
    assert len(values(broker, topic)) == 301  # an open transaction is not waited for
    transactional.abandon()
    assert len(values(broker, topic)) == 301


def test_reading_ends_early_when_it_is_asked_to(broker, topic, closing):
    sink = closing(KafkaSink(broker.client))
    sink.send(Message(topic, b"k", b"v"))
    sink.flush(10)
    assert list(read_all(broker.client, topic, stopped=lambda: True)) == []


@pytest.mark.parametrize("size", [4, 1_000_000])  # one record; five parts
def test_a_state_is_final_with_its_transaction_and_found_by_the_next_process(broker, topic, closing, size):
    name = broker.name("t")
    source = closing(KafkaSource(broker.client, [broker.topic()], broker.name("g")))
    sink = closing(KafkaSink(broker.client, transactional_id=name))
    checkpoint = checkpoint_on(broker, topic, sink)
    assert checkpoint.latest("") is None
    for step in range(1, 5):
        checkpoint.save(snapshot(step, size))
        sink.settle(source, {}, 20)
    checkpoint.save(snapshot(9, size))
    sink.flush(20)
    next_sink = closing(KafkaSink(broker.client, transactional_id=name))  # the last transaction ends with its process
    found = checkpoint_on(broker, topic, next_sink).latest("")
    assert found is not None
    assert step_of(found) == 4
    assert found.memory["w"].equal(torch.full((size,), 4.0))


def test_however_much_is_saved_the_changelog_has_a_few_keys(broker, topic, closing):
    sink = closing(KafkaSink(broker.client))
    checkpoint = checkpoint_on(broker, topic, sink, owner="pod-0")
    for step in range(12):
        checkpoint.save(snapshot(step))
    sink.flush(10)
    consumer = closing(KafkaConsumer(**broker.client))
    consumer.assign([TopicPartition(topic, 0)])
    consumer.seek_to_beginning()
    found = [record for records in consumer.poll(5000).values() for record in records]
    assert {record.key for record in found} == {b"pod-0/%d/0" % n for n in range(checkpoint_kafka.COPIES)}
    assert step_of(checkpoint.latest("")) == 11
    assert checkpoint.set_aside("") == checkpoint_kafka.COPIES
    sink.flush(10)
    assert checkpoint.latest("") is None
