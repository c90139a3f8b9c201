"""The daemon's loop without its model, and what to hold against it: used where only delivery matters."""

import contextlib
import time
from collections import Counter

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from tta_daemon.errors import DeliveryError
from tta_daemon.stream.kafka_sink import KafkaSink
from tta_daemon.stream.kafka_source import KafkaSource
from tta_daemon.stream.ledger import Ledger
from tta_daemon.stream.records import Message


class Echo:
    """Answers every record with its value."""

    def __init__(
        self, bootstrap, transactional_id=None, *, images="images", answers="answers", group="g", instance="1"
    ):
        client = {"bootstrap_servers": bootstrap}
        settings = {
            "session_timeout_ms": 6000,
            "heartbeat_interval_ms": 200,
            "request_timeout_ms": 3000,
            "max_poll_interval_ms": 12_000,  # noida-db does not fence transactions by generation: nobody may be put out
        }
        self.bootstrap, self.answers = bootstrap, answers
        self.source = KafkaSource(
            client, [images], group, instance=instance, settings=settings, connect_timeout_s=5, call_timeout_s=2
        )
        self.sink = KafkaSink(
            client, transactional_id=transactional_id, connect_timeout_s=5, settings={"request_timeout_ms": 3000}
        )
        self.ledger = Ledger()
        self.failures = 0

    def turn(self, most=50):
        changes = self.source.changes()
        try:
            self.ledger.forget(changes.lost)
            if changes.revoked:
                self.settle()
                self.ledger.forget(changes.revoked)
            for record in self.source.poll(0.1, most):
                self.ledger.opened(record.position)
                self.sink.send(Message(self.answers, record.key, record.value))
                self.ledger.closed(record.position)
            self.settle()
        except DeliveryError:
            self.failures += 1
            self.read_again()

    def settle(self):
        offsets = self.ledger.safe()
        self.sink.settle(self.source, offsets, 3.0)
        self.ledger.settled(offsets)

    def read_again(self):
        deadline = time.monotonic() + 60
        while True:
            try:
                self.sink.abandon()
                break
            except DeliveryError:
                assert time.monotonic() < deadline
                time.sleep(0.2)
        self.ledger = Ledger()
        self.source.rewind(self.source.assignment())

    def close(self):
        self.sink.close()
        self.source.close()


class Settled:
    """Looks on from outside the group: how many records it has committed."""

    def __init__(self, bootstrap, group, places):
        self.places = [TopicPartition(*place) for place in places]
        self.consumer = KafkaConsumer(bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False)

    def __call__(self):
        with contextlib.suppress(KafkaError):
            return sum(self.consumer.committed(place, timeout_ms=2000) or 0 for place in self.places)
        return 0

    def close(self):
        self.consumer.close()


def fill(bootstrap, topic, numbers, partitions=2):
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    for n in numbers:
        producer.send(topic, value=b"%d" % n, partition=n % partitions)
    producer.flush(60)
    producer.close(timeout=60)


def answered(bootstrap, topic="answers"):
    """How often each number was answered, as a reader of committed records sees it."""
    place = TopicPartition(topic, 0)
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, isolation_level="read_committed")
    consumer.assign([place])
    consumer.seek_to_beginning(place)
    found, end = [], consumer.end_offsets([place])[place]
    while consumer.position(place) < end and (new := consumer.poll(60_000)):
        found += [int(record.value) for records in new.values() for record in records]
    consumer.close()
    return Counter(found)
