"""What is measured is what runs: a replay and a daemon on a real broker give the same answers, bit for bit."""

import time

import numpy as np
import pytest
import torch
import world
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from nets import images

import adapters
from tta_daemon.assemble import on_kafka
from tta_daemon.control.web.board import Board
from tta_daemon.daemon import Daemon
from tta_daemon.learner import Learner
from tta_daemon.model.load import load
from tta_daemon.offline.replay.orders import parse, plan
from tta_daemon.offline.replay.run import drive, in_memory
from tta_daemon.offline.replay.streams import Stream
from tta_daemon.offline.replay.tape import Tape
from tta_daemon.offline.replay.values import Arrays
from tta_daemon.stream.connection import connection
from tta_daemon.stream.memory_log import MemoryLog

pytestmark = pytest.mark.kafka

COUNT, SIZE = 56, 16  # three batches and a half


class Listening:
    """A tape that keeps every batch's logits."""

    def __init__(self):
        self.logits, self.source = [], []
        self.tape = Tape(self.see)

    def see(self, _, answered):
        self.logits.append(answered.logits.clone())
        self.source.append(answered.source.clone())


def stream():
    pixels = (images(COUNT) * 255).byte().permute(0, 2, 3, 1).contiguous().numpy()
    labels = np.arange(COUNT) % 5
    keys = tuple(f"camera {n % 3}" for n in range(COUNT))
    return Stream("s", Arrays(pixels), labels, ("fog", "clean"), np.arange(COUNT) * 2 // COUNT, None, keys)


def replayed(config, source, laid):
    heard, log = Listening(), MemoryLog()
    daemon, reel = in_memory(config, load(config.model), log, heard.tape, source, laid)
    drive(daemon, reel, log, keep=True)
    return heard, [(r.key, r.value, r.headers) for r in log.records(config.kafka.output_topic)]


def through_the_broker(config, source, laid, broker):
    producer = KafkaProducer(**broker.client)
    for step, image in enumerate(laid.images):
        kind, data = source.values[int(image)]
        headers = [("content-type", kind.encode()), ("id", str(step).encode())]
        producer.send(config.kafka.input_topic, data, source.keys[image].encode(), headers, partition=0)
    producer.flush()
    producer.close()
    heard, deployed = Listening(), load(config.model)
    learner = Learner(deployed, config.adapt, config.watch.sample, config.guard)
    client = connection(config.kafka)
    daemon = Daemon(
        config, deployed, lambda: on_kafka(config, client, deployed, heard.tape), learner, heard.tape, Board()
    )
    assert daemon.connect()
    try:
        deadline = time.monotonic() + 60
        while heard.tape.batches < COUNT // SIZE or daemon.batcher.waiting < COUNT % SIZE:
            assert time.monotonic() < deadline, (heard.tape.batches, daemon.batcher.waiting)
            daemon.turn()
        daemon.drain()
    finally:
        daemon.disconnect()
    return heard, list(values(broker, config.kafka.output_topic))


def values(broker, topic):
    place = TopicPartition(topic, 0)
    consumer = KafkaConsumer(**broker.client, isolation_level="read_committed")
    consumer.assign([place])
    consumer.seek_to_beginning(place)
    end = consumer.end_offsets([place])[place]
    while consumer.position(place) < end and (new := consumer.poll(60_000)):
        for records in new.values():
            yield from ((record.key, record.value, tuple(record.headers)) for record in records)
    consumer.close()


def configured(broker, method, **more):
    kafka = {
        "bootstrap_servers": [broker.bootstrap],
        "input_topic": broker.topic(),
        "output_topic": broker.topic(what="answers"),
        "dead_letter_topic": broker.topic(what="dlq"),
        "labels_topic": "",
        "group_id": broker.name("g"),
    }
    adapt = {"method": method, "learn_from": 4}
    patient = {"size": SIZE, "patience_s": 600.0}
    return world.config(kafka=kafka | more, adapt=adapt, batch=patient, settle={"every_s": 0.2})


@pytest.mark.parametrize("method", adapters.METHODS)
def test_the_same_answers_bit_for_bit(broker, method):
    compare(configured(broker, method), broker)


def test_the_same_answers_in_transactions(broker):
    compare(configured(broker, "tent", delivery="exactly_once", transactional_id=broker.name("t")), broker)


def compare(config, broker):
    torch.set_num_threads(1)
    if missing := adapters.unmet(config.adapt.method, load(config.model).classifier):
        pytest.skip("; ".join(missing))
    source = stream()
    laid = plan(source, parse("recurring:1"), 0)
    ours, said = replayed(config, source, laid)
    theirs, heard = through_the_broker(config, source, laid, broker)
    assert len(said) == COUNT
    assert said == heard
    assert len(ours.logits) == 4
    for one, other in zip(ours.logits + ours.source, theirs.logits + theirs.source, strict=True):
        assert torch.equal(one, other)
    assert ours.tape.learned_from == theirs.tape.learned_from == 4
