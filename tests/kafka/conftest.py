"""A real broker for the tests of this folder: our own process, or the one that TTA_TEST_BOOTSTRAP names.

Every test has topics, groups and transactions of its own. Tests that stop the broker are skipped where it is not ours.
"""

import os
import time
import uuid

import pytest

from tta_daemon.offline.broker import Broker, create_topics

EXTERNAL = os.environ.get("TTA_TEST_BOOTSTRAP")


class Kafka:
    """An address, and topics and groups that no other test uses."""

    def __init__(self, bootstrap):
        self.bootstrap = bootstrap
        self.client = {"bootstrap_servers": bootstrap}

    def name(self, what):
        return f"{what}-{uuid.uuid4().hex[:8]}"

    def topic(self, partitions=1, configs=None, what="images"):
        name = self.name(what)
        self.create(name, partitions, configs)
        return name

    def create(self, name, partitions=1, configs=None):
        create_topics(self.client, {name: partitions}, configs)


@pytest.fixture(scope="session")
def broker(tmp_path_factory):
    """A broker that all tests share, each with topics of its own."""
    if EXTERNAL:
        yield Kafka(EXTERNAL)
        return
    pytest.importorskip("noida_db", reason="the embedded broker is not installed, and TTA_TEST_BOOTSTRAP is not set")
    with Broker(tmp_path_factory.mktemp("broker")) as process:
        yield Kafka(process.bootstrap)


@pytest.fixture
def own_processes():
    """Leave for the test to start and stop a broker."""
    if EXTERNAL:
        pytest.skip("TTA_TEST_BOOTSTRAP names the broker, and this test stops and starts one")
    pytest.importorskip("noida_db", reason="the embedded broker is not installed")


@pytest.fixture
def own_broker(own_processes, tmp_path):
    """A broker process of the test's own, to be stopped and killed."""
    with Broker(tmp_path / "broker") as process:
        yield process


def until(condition, seconds=30.0):
    """Wait for a condition; its value. Fails when the deadline is over."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {condition}"
        time.sleep(0.02)
    return value


@pytest.fixture(name="until", scope="session")
def _until():
    return until
