"""Publications on a real broker: a record for each state, under one key, and a daemon that does not wait for any."""

import json
import struct
import time

import pytest
import torch
from kafka import KafkaConsumer, TopicPartition
from safetensors.torch import load

from tta_daemon.errors import PublishError
from tta_daemon.model.outlets import TopicOutlet
from tta_daemon.model.publication import Publication
from tta_daemon.offline.broker import free_port

pytestmark = pytest.mark.kafka


def publication(version, size=4):
    about = {"model": "net", "digest": "d" * 64, "method": "tent", "step": 3, "verdict": "adapted"}
    return Publication("north", version, {"bn1.weight": torch.full((size,), float(version))}, about)


def records(broker, topic, count):
    """The first so many records of the topic."""
    consumer = KafkaConsumer(**broker.client, consumer_timeout_ms=20_000)
    try:
        consumer.assign([TopicPartition(topic, 0)])
        consumer.seek_to_beginning()
        return [record for _, record in zip(range(count), consumer, strict=False)]
    finally:
        consumer.close()


def test_every_state_is_a_record_under_the_streams_key(broker):
    topic = broker.name("adapters")
    outlet = TopicOutlet(broker.client, topic)
    for version in (1, 2):
        outlet.put(publication(version))
    outlet.close()
    found = records(broker, topic, 2)
    assert [record.key for record in found] == [b"d" * 16 + b"/north"] * 2
    assert [dict(record.headers)["version"] for record in found] == [b"1", b"2"]
    assert load(found[1].value)["bn1.weight"].tolist() == [2.0] * 4
    (length,) = struct.unpack("<Q", found[1].value[:8])
    metadata = json.loads(found[1].value[8 : 8 + length])["__metadata__"]
    assert json.loads(metadata["manifest"])["verdict"] == "adapted"


def test_what_is_too_large_for_a_record_is_refused_before_it_is_sent():
    outlet = TopicOutlet({"bootstrap_servers": "nowhere.invalid:1"}, "adapters")
    with pytest.raises(PublishError, match="publish to a folder"):
        outlet.put(publication(1, size=300_000))


def test_a_broker_that_is_away_is_an_error_of_publishing_and_its_return_none(broker, monkeypatch):
    monkeypatch.setattr("tta_daemon.model.outlets.CALL_S", 1.0)
    topic = broker.name("adapters")
    outlet = TopicOutlet({"bootstrap_servers": f"127.0.0.1:{free_port()}"}, topic)
    began = time.monotonic()
    with pytest.raises(PublishError, match="no broker answered"):
        outlet.put(publication(1))
    assert time.monotonic() - began < 60.0
    outlet.client = broker.client
    monkeypatch.setattr("tta_daemon.model.outlets.CALL_S", 15.0)
    outlet.put(publication(2))
    outlet.close()
    assert len(records(broker, topic, 1)) == 1
