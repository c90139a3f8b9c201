"""Health, metrics and status by HTTP, through a real socket."""

import signal
import socket
import threading

import httpx
import pytest

from tta_daemon.control.sections import Http
from tta_daemon.control.web.board import Board
from tta_daemon.control.web.server import Server
from tta_daemon.errors import ConfigError
from tta_daemon.watch.metrics import Metrics


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def board(clock):
    return Board(clock)


@pytest.fixture
def server(board):
    server = Server(Http(port=0, stall_s=60.0), board, Metrics().registry)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def web(server):
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=60) as client:
        yield client


def test_it_is_healthy_while_the_loop_turns(web, board, clock):
    clock.now = 1000.0
    assert web.get("/-/healthy").text == "starting\n"
    board.turned()
    clock.now += 59.0
    assert web.get("/-/healthy").status_code == 200
    clock.now += 2.0
    still = web.get("/-/healthy")
    assert still.status_code == 503
    assert "stands still since 61 s" in still.text
    board.turned()
    assert web.get("/-/healthy").status_code == 200


def test_what_counts_as_standstill_can_change(web, server, board, clock):
    board.turned()
    clock.now = 20.0
    server.tune(Http(stall_s=10.0))
    assert web.get("/-/healthy").status_code == 503


def test_it_is_ready_when_the_board_says_so(web, board):
    assert web.get("/-/ready").status_code == 503
    board.announce()
    assert web.get("/-/ready").text == "ready\n"
    board.withdraw()
    answer = web.get("/-/ready")
    assert (answer.status_code, answer.text) == (503, "stopping\n")


def test_metrics_are_what_prometheus_reads(web):
    answer = web.get("/metrics", headers={"accept": "text/plain"})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert "tta_build_info{" in answer.text
    open_metrics = web.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert open_metrics.text.endswith("# EOF\n")


def test_status_is_what_was_published(web, board):
    assert web.get("/api/status").json() == {"ready": False, "readiness": "starting"}
    board.publish({"lag": {"images-0": 3}, "accuracy": float("nan"), "path": ("a", 1), "digest": None})
    board.announce()
    assert web.get("/api/status").json() == {
        "ready": True,
        "readiness": "ready",
        "lag": {"images-0": 3},
        "accuracy": None,
        "path": ["a", 1],
        "digest": None,
    }


def test_head_and_wrong_methods_and_wrong_paths(web):
    assert web.head("/-/healthy").status_code == 200
    assert web.post("/-/healthy").status_code == 405
    assert web.post("/-/reload").status_code == 403
    assert web.get("/nothing").status_code == 404
    assert "/metrics" in web.get("/").text


def test_a_port_in_use_is_a_matter_of_configuration(server):
    with pytest.raises(ConfigError, match="in use") as caught:
        Server(Http(port=server.port), Board(), Metrics().registry).start()
    assert caught.value.path == "http.port"
    assert "0 for any" in caught.value.remedy


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1"])
def test_a_host_that_is_not_ours_is_a_matter_of_configuration(host):
    with pytest.raises(ConfigError) as caught:
        Server(Http(host=host, port=0), Board(), Metrics().registry).start()
    assert caught.value.path == "http.host"


def test_it_takes_no_signals_and_leaves_nothing_behind():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    server = Server(Http(port=0), Board(), Metrics().registry)
    server.start()
    port = server.port
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    server.stop(timeout_s=60.0)
    assert "http" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_an_idle_connection_does_not_hold_up_the_stop():
    server = Server(Http(port=0), Board(), Metrics().registry)
    server.start()
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as idle:
        idle.sendall(b"GET /metr")
        server.stop(timeout_s=60.0)
        assert "http" not in {thread.name for thread in threading.enumerate()}


def test_stopping_what_was_never_started_is_harmless():
    Server(Http(port=0), Board(), Metrics().registry).stop()
