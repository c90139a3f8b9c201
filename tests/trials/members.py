"""Replicas of the daemon as processes that a trial may end at any moment, minded as an orchestrator would."""

import json
import signal
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kafka import KafkaAdminClient, KafkaProducer
from kafka.admin import MemberToRemove

from tta_daemon.control.asking import NoAnswer, ask, good
from tta_daemon.control.toml import document
from tta_daemon.offline.broker import Broker, free_port
from tta_daemon.offline.digits import MEAN, STD, WEIGHTS
from tta_daemon.offline.service import Service, ServiceFailed

IMAGES, ANSWERS, BURIED = "images", "answers", "images-dlq"
PARTITIONS = 4
TOPICS = {IMAGES: PARTITIONS, ANSWERS: 2, BURIED: 1}
GROUP = "trial"
STOP_S = 60.0

Sections = Mapping[str, Mapping[str, Any]]


def configuration(bootstrap: str, name: str, folder: Path, delivery: str, port: int) -> dict[str, dict[str, Any]]:
    """The settings of one replica: the demo's network, short timeouts, its state saved often."""
    return {
        "kafka": {
            "bootstrap_servers": [bootstrap],
            "group_id": GROUP,
            "group_instance_id": name,
            "input_topic": IMAGES,
            "output_topic": ANSWERS,
            "dead_letter_topic": BURIED,
            "delivery": delivery,
            "session_timeout_s": 6.0,
            "max_poll_interval_s": 60.0,
        },
        "input": {"resize": "stretch", "decoders": 1},
        "model": {
            "factory": "tta_daemon.offline.digits:network",
            "weights": str(WEIGHTS),
            "input_size": [28, 28],
            "mean": list(MEAN),
            "std": list(STD),
            "threads": 1,
        },
        "adapt": {"method": "tent"},
        "batch": {"size": 64, "patience_s": 0.2},
        "limits": {"waiting_images": 256},
        "settle": {"every_s": 0.1},
        "checkpoint": {"kind": "kafka", "every_s": 1.0}
        if delivery == "exactly_once"
        else {"kind": "file", "folder": str(folder / f"{name}-state"), "every_s": 1.0},
        "http": {"port": port},
    }


class Member:
    """One replica: what it is told, and its process while there is one."""

    def __init__(self, broker: Broker, folder: Path, name: str, delivery: str, more: Sections | None = None) -> None:
        port = free_port()
        self.name, self.folder, self.url = name, folder, f"http://127.0.0.1:{port}"
        self.service: Service | None = None
        self.lives, self.kills = 0, 0
        self.complaints: list[str] = []
        settings = configuration(broker.bootstrap, name, folder, delivery, port)
        for section, given in (more or {}).items():
            settings[section] = {**settings.get(section, {}), **given}
        self.config = folder / f"{name}.toml"
        self.config.write_text(document(settings))

    @property
    def logs(self) -> list[Path]:
        """What each of its lives wrote, oldest first."""
        return [self.folder / f"{self.name}.{life:03d}.log" for life in range(1, self.lives + 1)]

    @property
    def held(self) -> int:
        """How many partitions the group has given it, as far as it knows."""
        try:
            code, text = ask(self.url, "/api/status")
        except NoAnswer:
            return 0
        return len(json.loads(text).get("partitions", ())) if good(code) else 0

    def start(self) -> None:
        """Begin the next life."""
        self.lives += 1
        self.service = Service(self.config, self.url, self.logs[-1]).start()

    def kill(self) -> None:
        """SIGKILL."""
        if self.service is not None:
            self.mind(restart=False)
            self.service.kill()
            self.kills += 1
            self.service = None

    def stop(self) -> None:
        """SIGTERM; a failure to end well is a complaint."""
        if self.service is None:
            return
        try:
            code = self.service.stop(STOP_S)
        except ServiceFailed as failed:
            self.service.kill()
            self.complaints.append(f"{self.name}, life {self.lives}: {failed}")
        else:
            if code not in {0, -signal.SIGTERM}:  # the latter: it was not even listening yet
                self.complaints.append(f"{self.name}, life {self.lives}, ended with {code}{self.service.last_words()}")
        self.service = None

    def mind(self, *, restart: bool = True) -> None:
        """Note that it has ended by itself, and start it again."""
        if self.service is None or self.service.pid is not None:
            return
        self.complaints.append(f"{self.name}, life {self.lives}, ended by itself{self.service.last_words()}")
        if restart:
            self.start()


def dismiss(bootstrap: str, name: str) -> None:
    """Take a dead static member off the group's list, and end its transaction.

    Kafka does both by itself, after the session's and the transaction's timeout; noida-db 0.2.3 ends no transaction.
    """
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.remove_group_members(GROUP, [MemberToRemove(group_instance_id=name)])
    admin.close()
    producer = KafkaProducer(bootstrap_servers=bootstrap, transactional_id=f"{GROUP}-{name}")
    producer.init_transactions()
    producer.close()


def end(members: Iterable[Member]) -> None:
    """Leave no process behind."""
    for member in members:
        if member.service is not None:
            member.service.kill()
