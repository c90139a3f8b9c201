"""Calls end in time, broken clients leave nothing behind, and logs stay readable."""

import logging
import socket
import threading
import time
from types import SimpleNamespace

import pytest
from kafka.errors import KafkaTimeoutError, SaslAuthenticationFailedError

from tta_daemon.errors import BrokerUnreachable
from tta_daemon.stream import kafka_client
from tta_daemon.stream.kafka_client import Caller, QuietLogs, opened, record_of


@pytest.fixture
def caller():
    caller = Caller("test")
    yield caller
    caller.close()


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield {"bootstrap_servers": f"127.0.0.1:{server.getsockname()[1]}"}


def test_a_call_gives_its_value_or_its_error(caller):
    assert caller.within(60, lambda: 7) == 7
    with pytest.raises(KeyError):
        caller.within(60, lambda: {}["x"])


def test_a_call_that_hangs_is_left_and_those_behind_it_too(caller):
    begun, go_on, ran = threading.Event(), threading.Event(), []

    def hang():
        begun.set()
        go_on.wait(60)

    while not begun.is_set():  # it may be given up on before it has begun
        with pytest.raises(TimeoutError):
            caller.within(0.05, hang)
    with pytest.raises(TimeoutError):
        caller.within(0.05, lambda: ran.append("given up on"))
    go_on.set()
    assert caller.within(60, lambda: "well again") == "well again"
    assert ran == []  # what nobody waits for any more is not done


class Net:
    """A network client that remembers whether it was closed."""

    def __init__(self, refusals=()):
        self._manager = SimpleNamespace(_auth_failures=dict(enumerate(refusals)))
        self.closed = threading.Event()

    def close(self):
        self.closed.set()


@pytest.mark.parametrize(
    ("refusals", "said"),
    [((), "kafka.bootstrap_servers: no broker answered"), ((SaslAuthenticationFailedError("no"),), "kafka.security: ")],
)
def test_a_client_that_cannot_be_made_leaves_nothing_behind(monkeypatch, caller, listener, refusals, said):
    net = Net(refusals)
    monkeypatch.setattr(kafka_client, "KafkaNetClient", lambda **_: net)

    def client(kafka_client, **_):
        kafka_client()
        raise KafkaTimeoutError("Unable to bootstrap")

    with pytest.raises(BrokerUnreachable, match=said):
        opened(client, caller, listener, 0.5)
    assert net.closed.wait(60)


@pytest.mark.parametrize("servers", ["", "nonsense", ["127.0.0.1:x"], "[::1]:1,127.0.0.1:1"])
def test_addresses_that_lead_nowhere(caller, servers):
    with pytest.raises(BrokerUnreachable, match=r"kafka\.bootstrap_servers"):
        opened(dict, caller, {"bootstrap_servers": servers}, 0.2)


def test_each_message_once_and_without_expected_tracebacks():
    quiet = QuietLogs(every_s=60)

    def say(message, name="kafka.net", error=None):
        record = logging.LogRecord(name, logging.ERROR, "", 0, message, (), error and (type(error), error, None))
        return quiet.filter(record), record

    assert say("gone")[0]
    assert not say("gone")[0]
    assert say("back")[0]
    assert say("failed", error=ValueError())[1].exc_info is None
    assert say("ours", name="tta_daemon.x", error=ValueError())[1].exc_info is not None


def test_a_record_without_headers_or_time():
    found = SimpleNamespace(topic="t", partition=1, offset=2, key=None, value=b"", headers=[("a", None)], timestamp=-1)
    record = record_of(found)
    assert (record.headers, record.timestamp_s) == ((("a", b""),), 0.0)
    assert time.time() > record.timestamp_s
