"""Every replica reads every partition of the labels topic, from a time on."""

import time

import pytest
from kafka import KafkaProducer

from tta_daemon.errors import Reason, RecordRejected
from tta_daemon.stream.dead_letters import DeadLetters
from tta_daemon.stream.kafka_sink import KafkaSink
from tta_daemon.stream.kafka_tail import KafkaTail
from tta_daemon.stream.records import Partition, Position, Record
from tta_daemon.stream.resubmission import letters

pytestmark = pytest.mark.kafka

START = int(time.time()) - 60  # brokers delete what is older than their retention


@pytest.fixture
def produce(broker):
    producer = KafkaProducer(**broker.client)

    def produce(topic, value, partition, at_s):
        producer.send(topic, value=value, partition=partition, timestamp_ms=int(at_s * 1000))
        producer.flush(10)

    yield produce
    producer.close(timeout=5)


def test_two_replicas_read_everything_since_a_time(broker, produce, until):
    topic = broker.topic(2)
    for n in range(6):
        produce(topic, b"%d" % n, n % 2, START + n)
    tails = [KafkaTail(broker.client, topic, since_s=START + 2) for _ in range(2)]
    produce(topic, b"6", 0, START + 6)
    for tail in tails:
        found = []
        until(lambda tail=tail, found=found: found.extend(tail.poll(0.2, 2)) or len(found) >= 5)
        assert sorted(record.value for record in found) == [b"2", b"3", b"4", b"5", b"6"]
        tail.close()


def test_a_topic_that_appears_later_is_found(broker, produce, until):
    topic = broker.name("labels")
    tail = KafkaTail(broker.client, topic, since_s=0, settings={"allow_auto_create_topics": False})
    assert tail.poll(0.1, 10) == []
    broker.create(topic)
    produce(topic, b"x", 0, START)
    found = []
    until(lambda: found.extend(tail.poll(0.2, 10)) or found)
    assert found[0].timestamp_s == START
    tail.close()


def test_it_goes_on_where_it_was_with_a_new_client(broker, produce, until):
    topic = broker.topic()
    produce(topic, b"1", 0, START)
    tail = KafkaTail(broker.client, topic, since_s=0)
    found = []
    until(lambda: found.extend(tail.poll(0.2, 10)) or found)
    tail._drop()
    produce(topic, b"2", 0, START)
    until(lambda: found.extend(tail.poll(0.2, 10)) or len(found) > 1)
    assert [record.value for record in found] == [b"1", b"2"]
    tail.close()


def test_dead_letters_are_read_back(broker):
    topic, sink = broker.topic(2, what="dead"), KafkaSink(broker.client)
    fault = RecordRejected(Reason.EMPTY_VALUE, "the record has no value")
    for n in range(5):
        sink.send(DeadLetters(topic).letter(Record(Position(Partition("images", 0), n), None, None), fault))
    sink.flush(10)
    sink.close()
    found = sorted(letters(broker.client, topic), key=lambda letter: letter.origin.offset)
    assert [letter.origin.offset for letter in found] == list(range(5))
    assert {letter.reason for letter in found} == {"empty_value"}
