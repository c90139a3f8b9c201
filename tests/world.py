"""A whole daemon in memory, in one call."""

import io
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from nets import images
from torch import nn

from tta_daemon.assemble import labels_of
from tta_daemon.control.checkpoint import Checkpoint
from tta_daemon.control.config import Config
from tta_daemon.control.stream_states import StreamStates
from tta_daemon.control.web.board import Board
from tta_daemon.daemon import Daemon, World
from tta_daemon.learner import Learner
from tta_daemon.model.load import load
from tta_daemon.stream.memory_log import MemoryLog, MemorySink, MemorySource, MemoryTail
from tta_daemon.stream.records import Partition, Record
from tta_daemon.watch.metrics import Metrics


def network(num_classes: int = 5) -> nn.Module:
    """The factory that test configurations name: `world:network`."""
    from nets import tiny_cnn  # noqa: PLC0415 - only where a network is wanted

    return tiny_cnn(num_classes).network


def npy(array: np.ndarray) -> bytes:
    """An array as the bytes of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def pictures(count: int, seed: int = 0) -> list[bytes]:
    """Small pictures as npy values: uint8, H x W x C."""
    pixels = (images(count, seed=seed) * 255).byte().permute(0, 2, 3, 1).numpy()
    return [npy(picture) for picture in pixels]


def config(folder: Path | None = None, **sections: dict[str, object]) -> Config:
    """A configuration for the small network; sections override."""
    base: dict[str, dict[str, object]] = {
        "model": {"factory": "world:network", "input_size": [16, 16], "threads": 1},
        "batch": {"size": 8, "patience_s": 0.0},
        "adapt": {"method": "tent", "learn_from": 4},
        "settle": {"every_s": 0.001},
        "kafka": {"labels_topic": "labels"},
        "guard": {"mode": "off"},
    }
    for name, section in sections.items():
        base[name] = base.get(name, {}) | section
    return Config.model_validate(base, context={"folder": folder})


class Memory:
    """A daemon on a log in memory: send records, run it dry, look at what came out."""

    def __init__(
        self,
        config: Config,
        log: MemoryLog | None = None,
        checkpoint: Checkpoint | None = None,
        states: StreamStates | None = None,
    ) -> None:
        self.log = log or MemoryLog({"images": 1, "answers": 1, "labels": 1, "images-dlq": 1})
        self.config = config
        self.metrics = Metrics()
        deployed = load(config.model)
        learner = Learner(deployed, config.adapt, config.watch.sample, config.guard)

        def connect() -> World:
            kafka = config.kafka
            exactly_once = kafka.delivery == "exactly_once"
            sink = MemorySink(self.log, exactly_once=exactly_once, transactional_id=kafka.transaction_name or "tta")
            labels = labels_of(self.daemon.config, self.daemon.deployed, MemoryTail(self.log, "labels"), self.metrics)
            for saved in (checkpoint, states):
                if saved is not None and saved.with_answers:
                    saved.sink = sink
            return World(MemorySource(self.log, ["images"], kafka.group_id), sink, labels, checkpoint, states)

        self.daemon = Daemon(config, deployed, connect, learner, self.metrics, Board())

    def send(self, values: Iterable[bytes]) -> None:
        """Append records of type npy to the images topic."""
        for value in values:
            self.log.append("images", value, headers=(("content-type", b"application/x-npy"),))

    def run_dry(self, *, disconnect: bool = True) -> None:
        """Turn until nothing is left to read or to answer, then drain."""
        self.daemon.connect()
        for _ in range(1000):
            self.daemon.turn()
            behind = sum(self.daemon.source.lag().values())
            if not (behind or self.daemon.ledger.open_count or self.daemon.partitions.arriving):
                break
        else:
            raise AssertionError("the daemon does not run dry")
        self.daemon.drain()
        if disconnect:
            self.daemon.disconnect()

    def answered(self) -> list[str]:
        """The ids of all answers."""
        return [json.loads(record.value or b"")["id"] for record in self.log.records("answers")]

    def buried(self) -> list[Record]:
        """All dead letters."""
        return self.log.records("images-dlq")

    def committed(self) -> int:
        """The group's offset in the first partition."""
        return self.log.committed[self.config.kafka.group_id].get(Partition("images", 0), 0)
