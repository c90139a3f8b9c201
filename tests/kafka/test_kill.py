"""A daemon process killed in the middle of a stream learns and answers what one does that was never killed."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
import torch
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from world import pictures

from tta_daemon.control.checkpoint_file import FileCheckpoint
from tta_daemon.control.checkpoint_kafka import KafkaCheckpoint
from tta_daemon.control.toml import document
from tta_daemon.stream.kafka_changelog import read_all
from tta_daemon.stream.kafka_sink import KafkaSink
from tta_daemon.stream.records import Partition

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

SIZE, BATCHES = 8, 200
RECORDS = SIZE * BATCHES
KILLED_AT = (RECORDS // 6, RECORDS // 3, 2 * RECORDS // 3)
TESTS = Path(__file__).parents[1]


class Deployment:
    """A daemon's configuration, and its process while there is one."""

    def __init__(self, broker, images, folder, *, delivery, kind):
        self.broker, self.images, self.folder, self.kind = broker, images, folder, kind
        self.answers, self.group = broker.topic(what="answers"), broker.name("g")
        folder.mkdir()
        self.config = folder / "config.toml"
        self.config.write_text(
            document(
                {
                    "kafka": {
                        "bootstrap_servers": [broker.bootstrap],
                        "group_id": self.group,
                        "group_instance_id": "pod-0",
                        "input_topic": images,
                        "output_topic": self.answers,
                        "delivery": delivery,
                        "session_timeout_s": 6.0,
                    },
                    "model": {"factory": "world:network", "input_size": [16, 16], "threads": 1},
                    "batch": {"size": SIZE, "patience_s": 1000.0},
                    "adapt": {"method": "tent", "learn_from": SIZE},
                    "limits": {"waiting_images": 4 * SIZE},
                    "settle": {"every_s": 0.05},
                    "checkpoint": {"kind": kind, "folder": "state" if kind == "file" else "", "every_s": 0.3},
                    "http": {"port": 0},
                }
            )
        )

    def start(self):
        command = [sys.executable, "-m", "tta_daemon.cli", "run", "--config", str(self.config)]
        environment = os.environ | {"PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}", "OMP_NUM_THREADS": "1"}
        with (self.folder / "log").open("ab") as said:
            self.process = subprocess.Popen(command, stdout=said, stderr=said, env=environment)

    def end(self, number):
        self.process.send_signal(number)
        return self.process.wait(60)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def committed(self, admin):
        assert self.process.poll() is None, (self.folder / "log").read_text()[-3000:]
        found = admin.list_group_offsets(self.group)[self.group].get(TopicPartition(self.images, 0))
        return max(0, found.offset) if found else 0

    def state(self):
        if self.kind == "file":
            checkpoint = FileCheckpoint(self.folder / "state")
            found = checkpoint.latest("")
            checkpoint.close()
            return found
        sink, topic = KafkaSink(self.broker.client), f"{self.group}-state"
        found = KafkaCheckpoint(sink, topic, lambda: read_all(self.broker.client, topic), "pod-0").latest("")
        sink.close()
        return found

    def answered(self):
        place = TopicPartition(self.answers, 0)
        consumer = KafkaConsumer(**self.broker.client, isolation_level="read_committed")
        consumer.assign([place])
        consumer.seek_to_beginning(place)
        end, ids = consumer.end_offsets([place])[place], Counter()
        while consumer.position(place) < end and (new := consumer.poll(60_000)):
            ids.update(json.loads(record.value)["id"] for records in new.values() for record in records)
        consumer.close()
        return ids


@pytest.fixture(scope="module")
def images(broker):
    topic = broker.topic()
    producer = KafkaProducer(**broker.client)
    values = pictures(RECORDS // 10)
    for n in range(RECORDS):
        producer.send(topic, values[n * 7 % len(values)], headers=[("content-type", b"application/x-npy")])
    producer.flush()
    producer.close()
    return topic


@pytest.fixture(scope="module")
def admin(broker):
    client = KafkaAdminClient(**broker.client)
    yield client
    client.close()


@pytest.fixture(scope="module")
def reach(admin, until):
    """Wait until a daemon has committed so much."""
    return lambda daemon, offset: until(lambda: daemon.committed(admin) >= offset, 120)


@pytest.fixture(scope="module")
def uninterrupted(broker, images, reach, tmp_path_factory):
    """What a daemon has learned that was never killed."""
    daemon = Deployment(broker, images, tmp_path_factory.mktemp("kept") / "d", delivery="at_least_once", kind="file")
    with closing(daemon):
        daemon.start()
        reach(daemon, RECORDS)
        assert daemon.end(signal.SIGTERM) == 0
    return daemon.state()


@pytest.mark.parametrize(
    "ways", [("at_least_once", "file"), ("exactly_once", "kafka"), ("exactly_once", "file")], ids=" ".join
)
def test_state_and_answers_survive_sigkill(ways, broker, images, reach, uninterrupted, tmp_path):
    delivery, kind = ways
    daemon = Deployment(broker, images, tmp_path / "d", delivery=delivery, kind=kind)
    with closing(daemon):
        for kill_at in KILLED_AT:
            daemon.start()
            reach(daemon, kill_at)
            assert daemon.end(signal.SIGKILL) == -signal.SIGKILL
            assert daemon.state() is not None
        daemon.start()
        reach(daemon, RECORDS)
        assert daemon.end(signal.SIGTERM) == 0
    said = (daemon.folder / "log").read_text()
    assert said.count("state resumed") == len(KILLED_AT)
    found = daemon.state()
    assert found.learned == uninterrupted.learned == {Partition(images, 0): RECORDS}
    assert found.batches == uninterrupted.batches == BATCHES
    assert found.memory.keys() == uninterrupted.memory.keys()
    for name, tensor in uninterrupted.memory.items():
        assert torch.equal(found.memory[name], tensor), name
    ids = daemon.answered()
    assert len(ids) == RECORDS
    if delivery == "exactly_once":
        assert set(ids.values()) == {1}
