"""Partitions move between replicas on a real broker, and each stream's state moves with its own."""

import json
import time
from collections import Counter

import pytest
from cameras import PARTITIONS, RECORDS, alone, found, same, setting, values
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from tta_daemon.assemble import on_kafka, with_changelog
from tta_daemon.control.stream_changelog import StreamChangelog
from tta_daemon.control.web.board import Board
from tta_daemon.daemon import Daemon
from tta_daemon.learner import Learner
from tta_daemon.model.load import load
from tta_daemon.stream.connection import connection
from tta_daemon.stream.kafka_changelog import ensure
from tta_daemon.stream.kafka_reading import slices
from tta_daemon.stream.kafka_sink import KafkaSink
from tta_daemon.watch.metrics import Metrics

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


class Replicas:
    """Some daemons of one group, turned by one hand."""

    def __init__(self, broker):
        self.broker, self.metrics = broker, []
        self.images, self.answers = broker.topic(PARTITIONS), broker.topic(what="answers")
        self.buried, self.group = broker.topic(what="dlq"), broker.name("g")
        self.members = []

    def join(self):
        kafka = {
            "bootstrap_servers": [self.broker.bootstrap],
            "input_topic": self.images,
            "output_topic": self.answers,
            "dead_letter_topic": self.buried,
            "group_id": self.group,
            "group_instance_id": "",
            "transactional_id": self.broker.name("t"),
            "session_timeout_s": 6.0,
            "delivery": "exactly_once",
        }
        given = setting("exactly_once", kafka=kafka, settle={"every_s": 0.05}, checkpoint={"kind": "kafka"})
        deployed, client, metrics = load(given.model), connection(given.kafka), Metrics()

        def connect():
            partitions = ensure(client, given.state_topic, self.images)
            return with_changelog(on_kafka(given, client, deployed, metrics), given, client, partitions, bool)

        learner = Learner(deployed, given.adapt, given.watch.sample, given.guard)
        daemon = Daemon(given, deployed, connect, learner, metrics, Board())
        assert daemon.connect()
        self.members.append(daemon)
        self.metrics.append(metrics)

    def kill(self):
        """Die in the middle of it all: nothing is settled."""
        dead = self.members.pop(0)
        dead.sink.close()
        dead.streams.close()
        dead.source.close()
        dead.labels.close()

    def leave(self):
        left = self.members.pop(0)
        left.drain()
        left.disconnect()

    def turn_until(self, condition, seconds=90):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, [member.source.assignment() for member in self.members]
            for member in self.members:
                member.turn()

    def shared_out(self):
        held = [len(member.source.assignment()) for member in self.members]
        return sum(held) == PARTITIONS and all(held) and not any(m.partitions.arriving for m in self.members)

    def read(self):
        return sum(metrics.registry.get_sample_value("tta_records_answered_total") for metrics in self.metrics)

    def settled(self):
        consumer = KafkaConsumer(**self.broker.client, group_id=self.group, enable_auto_commit=False)
        places = [TopicPartition(self.images, n) for n in range(PARTITIONS)]
        total = sum(consumer.committed(place) or 0 for place in places)
        consumer.close()
        return total

    def states(self):
        topic, sink = f"{self.group}-state", KafkaSink(self.broker.client)
        states = StreamChangelog(sink, topic, PARTITIONS, lambda n: slices(self.broker.client, topic, n))
        kept = found(states, self.images)
        sink.close()
        return kept

    def told(self):
        consumer = KafkaConsumer(**self.broker.client, isolation_level="read_committed", enable_auto_commit=False)
        told = Counter()
        for topic in (self.answers, self.buried):
            place = TopicPartition(topic, 0)
            consumer.assign([place])
            consumer.seek_to_beginning(place)
            end = consumer.end_offsets([place])[place]
            while consumer.position(place) < end and (new := consumer.poll(60_000)):
                for record in (record for records in new.values() for record in records):
                    known = dict(record.headers)
                    told[known["id"].decode() if "id" in known else json.loads(record.value)["id"]] += 1
        consumer.close()
        return told


def test_one_dies_one_leaves_two_come_and_every_state_is_as_if_nothing_had_happened(broker):
    replicas = Replicas(broker)
    producer = KafkaProducer(**broker.client)

    def feed(first, last):
        for key, partition, headers, value in list(values())[first:last]:
            producer.send(replicas.images, value, key, list(headers), partition=partition)
        producer.flush()

    try:
        replicas.join()
        replicas.join()
        replicas.turn_until(replicas.shared_out)
        feed(0, 12)
        replicas.turn_until(lambda: replicas.read() >= 6)
        replicas.kill()
        replicas.join()
        replicas.turn_until(replicas.shared_out)
        feed(12, 20)
        replicas.turn_until(lambda: replicas.read() >= 14)
        replicas.join()
        replicas.turn_until(replicas.shared_out)
        replicas.leave()
        feed(20, RECORDS)
        replicas.turn_until(lambda: replicas.settled() == RECORDS)
        restored = [m.registry.get_sample_value("tta_streams_restored_total") for m in replicas.metrics]
        assert sum(restored) > 0
    finally:
        producer.close()
        for member in replicas.members:
            member.drain()
            member.disconnect()
    assert same(replicas.states(), alone(replicas.images)) == ""
    told = replicas.told()
    assert len(told) == RECORDS
    assert set(told.values()) == {1}
