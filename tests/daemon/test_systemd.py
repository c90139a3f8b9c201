"""What systemd hears: readiness, turns of the loop, reloads and the end, through a real datagram socket."""

import os
import socket

import pytest

from tta_daemon.control.systemd import Systemd
from tta_daemon.control.web.board import Board


@pytest.fixture
def ear(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(tmp_path / "notify"))
        ear.settimeout(0.2)
        yield ear


def heard(ear):
    """Everything that was said so far."""
    said = []
    while True:
        try:
            said.append(ear.recv(4096).decode().splitlines())
        except TimeoutError:
            return said


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def systemd(ear, clock=None, **environ):
    return Systemd({"NOTIFY_SOCKET": ear.getsockname(), **environ}, clock or Clock())


def test_the_board_passes_on_what_the_loop_says(ear):
    clock = Clock()
    board = Board(clock, systemd(ear, clock, WATCHDOG_USEC="8000000", WATCHDOG_PID=str(os.getpid())))
    board.turned()
    board.announce()
    for _ in range(5):
        clock.now += 1.0
        board.turned()
    board.withdraw()
    words = [lines[0] for lines in heard(ear)]
    assert words == ["WATCHDOG=1", "READY=1", "WATCHDOG=1", "WATCHDOG=1", "STOPPING=1"]


def test_a_reload_is_told_from_its_beginning_to_its_end(ear):
    said = systemd(ear)
    said.reloading()
    said.reloaded("too early: it is not ready yet")
    said.ready()
    said.reloading()
    said.reloaded("reload refused:\nbatch.size is\n wrong")
    assert heard(ear)[1:] == [
        ["RELOADING=1", "MONOTONIC_USEC=100000000"],
        ["READY=1", "STATUS=reload refused: batch.size is wrong"],
    ]


@pytest.mark.parametrize("environ", [{}, {"WATCHDOG_USEC": "8000000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}])
def test_who_is_not_watched_sends_no_pings(ear, environ):
    systemd(ear, **environ).turned()
    assert heard(ear) == []


def test_an_abstract_address(ear):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as abstract:
        abstract.bind(f"\0tta-{os.getpid()}")
        abstract.settimeout(0.2)
        Systemd({"NOTIFY_SOCKET": f"@tta-{os.getpid()}"}).ready()
        assert heard(abstract)[0][0] == "READY=1"


@pytest.mark.parametrize("address", ["", "/nobody/listens/here"])
def test_silence_where_nobody_listens(address):
    said = Systemd({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"})
    for word in (said.ready, said.turned, said.reloading, said.stopping):
        word()
