"""What systemd is told of the daemon (sd_notify): it is ready, its loop turns, it reloads, it stops."""

import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from os import getpid

PINGS = 4
"""Pings within the time after which systemd takes a silent daemon for dead."""


class Systemd:
    """Whoever started us and wants to know how we are. Where nobody does, every word goes nowhere. Never raises.

    Args:
        environ: holds ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` where systemd asks.
        clock: monotonic seconds, the system's ``CLOCK_MONOTONIC``.
    """

    def __init__(self, environ: Mapping[str, str], clock: Callable[[], float] = time.monotonic) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._clock = clock
        self._every_s = _watchdog_s(environ) / PINGS
        self._pinged_at = -float("inf")
        self._is_ready = False

    def ready(self) -> None:
        """The daemon answers."""
        self._is_ready = True
        self._say("READY=1", "STATUS=answering")

    def turned(self) -> None:
        """The loop went round; to be said as often as it does."""
        now = self._clock()
        if self._every_s and now - self._pinged_at >= self._every_s:
            self._pinged_at = now
            self._say("WATCHDOG=1")

    def reloading(self) -> None:
        """A new configuration is being taken."""
        if self._is_ready:
            self._say("RELOADING=1", f"MONOTONIC_USEC={int(self._clock() * 1e6)}")

    def reloaded(self, words: str) -> None:
        """It was taken, or was not; the words go into ``systemctl status``."""
        if self._is_ready:
            self._say("READY=1", f"STATUS={' '.join(words.split())[:200]}")

    def stopping(self) -> None:
        """The daemon drains and ends."""
        self._is_ready = False
        self._say("STOPPING=1", "STATUS=stopping")

    def _say(self, *lines: str) -> None:
        if not self._address:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
            out.setblocking(False)
            out.sendto("\n".join(lines).encode(), self._address)


def _watchdog_s(environ: Mapping[str, str]) -> float:
    """Seconds of silence that systemd bears with; 0 where it does not watch."""
    if environ.get("WATCHDOG_PID", str(getpid())) != str(getpid()):
        return 0.0
    with suppress(ValueError):
        return int(environ.get("WATCHDOG_USEC", "0")) / 1e6
    return 0.0
