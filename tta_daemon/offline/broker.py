"""A real Kafka-protocol broker as a child process, for the demo and the tests."""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from random import SystemRandom
from types import TracebackType
from typing import Self

from tta_daemon.errors import BrokerUnreachable, ConfigError

HOST = "127.0.0.1"

PORTS = range(20_000, 32_000)
"""Below those that systems usually hand out: between finding a port and listening on it nobody else is given it."""


class Broker:
    """A noida-db process that listens on one port of the loopback and keeps its data in one folder.

    It can be stopped, killed and started again on the same port and data. What it says goes to `broker.log` there.
    """

    def __init__(self, data_dir: Path, port: int | None = None) -> None:
        self.data_dir = data_dir
        self.port = port or free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """The address that clients connect to."""
        return f"{HOST}:{self.port}"

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process else None

    def start(self, timeout_s: float = 20.0) -> Self:
        """Start the process and wait until it listens."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        command = [_binary(), "start", "--only", "kafka", "--kafka-port", str(self.port), "--host", HOST]
        with (self.data_dir / "broker.log").open("ab") as said:
            self._process = subprocess.Popen(  # noqa: S603 - our own command line
                [*command, "--data-dir", str(self.data_dir)],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,  # a Ctrl-C in the terminal is for the daemon; the broker outlives it
            )
        deadline = time.monotonic() + timeout_s
        while not self._listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise BrokerUnreachable(f"the broker did not start within {timeout_s:g} s: {self._last_words()}")
            time.sleep(0.02)
        return self

    def stop(self, timeout_s: float = 60.0) -> None:
        """Stop the process; it saves all of its data first, which takes a while if there is much."""
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_s)
            self.kill()

    def kill(self) -> None:
        """Kill the process, as a crash would: what it wrote in the last seconds may be lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop, whatever happened."""
        self.stop()

    def create_topics(self, topics: Mapping[str, int], configs: Mapping[str, str] | None = None) -> None:
        """Create topics (name to number of partitions) that do not exist yet."""
        create_topics({"bootstrap_servers": self.bootstrap}, topics, configs)

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), timeout=0.2):
            return True
        return False

    def _last_words(self) -> str:
        lines = (self.data_dir / "broker.log").read_text(errors="replace").splitlines()
        return " / ".join(lines[-3:]) or "it said nothing"


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    for port in SystemRandom().sample(PORTS, len(PORTS)):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind((HOST, port))
            return port
    raise BrokerUnreachable(f"no port of {HOST} between {PORTS.start} and {PORTS.stop} is free")


def create_topics(
    client: Mapping[str, object], topics: Mapping[str, int], configs: Mapping[str, str] | None = None
) -> None:
    """Create topics on any broker; those that exist are left as they are."""
    from kafka.admin import KafkaAdminClient  # noqa: PLC0415 - a second to import, and only needed here
    from kafka.errors import TopicAlreadyExistsError  # noqa: PLC0415

    admin = KafkaAdminClient(**client, bootstrap_timeout_ms=15_000, request_timeout_ms=15_000)
    try:
        for topic, partitions in topics.items():
            wanted = {"num_partitions": partitions, "replication_factor": 1, "configs": dict(configs or {})}
            with contextlib.suppress(TopicAlreadyExistsError):
                admin.create_topics({topic: wanted})
    finally:
        admin.close()


def _binary() -> str:
    try:
        binary = files("noida_db") / "noida-db"
    except ModuleNotFoundError:
        raise ConfigError(
            "demo", "the embedded broker (noida-db) is not installed", "pip install 'tta-daemon[demo]'"
        ) from None
    path = Path(str(binary))
    if not os.access(path, os.X_OK):
        path.chmod(path.stat().st_mode | 0o111)
    return str(path)
