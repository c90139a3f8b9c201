"""Where one replica's processor time goes: what is compute, and what is decoding, Kafka, and saving states.

    python benchmarks/shares.py --json benchmarks/results/shares-resnet20.json

The daemon's loop on a real broker, as in `replicas.py`, with work waiting all the time. Shares are of processor time,
not of the clock: of the loop's thread by phase, of every other thread by what its name says that it is for.
"""

import argparse
import json
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
import torch
from development import add_arguments
from replicas import BATCH, CAMERAS, PARTITIONS, TICKS, feed, sections
from trials.members import ANSWERS, BURIED, IMAGES, configuration

from tta_daemon.assemble import on_kafka, with_changelog
from tta_daemon.control.config import Config
from tta_daemon.control.web.board import Board
from tta_daemon.daemon import Daemon
from tta_daemon.learner import Learner
from tta_daemon.model.load import load
from tta_daemon.offline.broker import Broker
from tta_daemon.stream.connection import connection
from tta_daemon.stream.kafka_changelog import ensure
from tta_daemon.watch.metrics import Metrics

KINDS = {"decode": "decode", "kafka": "Kafka", "tta-daemon-network": "Kafka", "checkpoint": "checkpoint"}
"""What other threads than the loop's are for, by how their names begin."""


class Timed(Metrics):
    """Counts processor time of the loop's thread, by phase."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: Counter[str] = Counter()
        self.images = 0

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """The block's processor time is one phase's."""
        with super().timed(phase), self.spent(phase):
            yield

    @contextmanager
    def spent(self, what: str) -> Iterator[None]:
        """The block's processor time is this one's."""
        began = time.thread_time()
        yield
        self.seconds[what] += time.thread_time() - began

    def answered(self, batch: Any, answered: Any) -> None:  # noqa: ANN401
        """One batch more."""
        super().answered(batch, answered)
        self.images += batch.size

    def within(self, owner: Any, name: str, what: str) -> None:  # noqa: ANN401
        """Count a method's processor time, too."""
        inner = getattr(owner, name)

        def outer(*args: Any, **more: Any) -> Any:  # noqa: ANN401
            with self.spent(what):
                return inner(*args, **more)

        setattr(owner, name, outer)


def threads() -> Counter[str]:
    """Processor seconds of this process's threads, the loop's apart, by what they are for."""
    spent: Counter[str] = Counter()
    for thread in threading.enumerate():
        if thread is threading.main_thread():
            continue
        fields = Path(f"/proc/self/task/{thread.native_id}/stat").read_text().rpartition(")")[2].split()
        kind = next((kind for begin, kind in KINDS.items() if thread.name.startswith(begin)), "other")
        spent[kind] += (int(fields[11]) + int(fields[12])) / TICKS
    return spent


def shares(data: Path, method: str, images: int, pack: int) -> dict[str, object]:
    """Where the processor time of one replica goes, between its first second of work and its last."""
    with tempfile.TemporaryDirectory() as folder, Broker(Path(folder)) as broker:
        broker.create_topics({IMAGES: PARTITIONS, ANSWERS: 2, BURIED: 1})
        feed(broker.bootstrap, data, images, pack)
        given = configuration(broker.bootstrap, "replica", Path(folder), "exactly_once", 0)
        for name, more in sections(data, method).items():
            given[name] = {**given.get(name, {}), **more}
        given["limits"] = {
            **given["limits"],
            "waiting_images": 2 * CAMERAS * BATCH // pack,
        }  # a turn reads as many records
        given["settle"] = {"every_s": 1.0}
        config = Config.model_validate(given)
        deployed, client, metrics = load(config.model), connection(config.kafka), Timed()

        def connect() -> Any:  # noqa: ANN401
            partitions = ensure(client, config.state_topic, IMAGES)
            return with_changelog(on_kafka(config, client, deployed, metrics), config, client, partitions, bool)

        learner = Learner(deployed, config.adapt, config.watch.sample, config.guard)
        daemon = Daemon(config, deployed, connect, learner, metrics, Board())
        daemon.connect()
        metrics.within(learner, "answer", "infer")
        metrics.within(daemon.source, "poll", "poll")
        metrics.within(daemon.scribe, "offer", "checkpoint")
        while metrics.images < images // 5:
            daemon.turn()
        began, images_before, phases, others = time.thread_time(), metrics.images, +metrics.seconds, threads()
        while metrics.images < images * 9 // 10:
            daemon.turn()
        loop, spent = time.thread_time() - began, metrics.seconds - phases
        found = threads() - others
        daemon.drain()
        daemon.disconnect()
    answered = metrics.images - images_before
    total = loop + sum(found.values())
    parts = {
        "compute": sum(spent[phase] for phase in ("infer", "adapt", "watch")),
        "decode": spent["decode"] + found["decode"],
        "Kafka": spent["poll"] + spent["produce"] + spent["commit"] - spent["checkpoint"] + found["Kafka"],
        "checkpoint": spent["checkpoint"] + found["checkpoint"],
    }
    parts["the rest of the loop"] = total - sum(parts.values())
    return {"images": answered, "cpu_ms_per_image": round(1000 * total / answered, 3),
            "share": {name: round(seconds / total, 3) for name, seconds in parts.items()}}  # fmt: skip


def main() -> None:
    """Measure, several times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--methods", nargs="+", default=["source", "norm", "tent"])
    parser.add_argument("--batches", type=int, default=12, help="of each camera, in a turn")
    parser.add_argument("--pack", type=int, default=1, help="images of a record")
    parser.add_argument("--turns", type=int, default=2, help="for each method")
    parser.add_argument("--json", type=Path, help="write the results here, too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    images = options.batches * BATCH * CAMERAS
    found: dict[str, list[dict[str, object]]] = {method: [] for method in options.methods}
    for _ in range(options.turns):
        for method, turns in found.items():
            turns.append(shares(options.data, method, images, options.pack))
            print(method, json.dumps(turns[-1]), flush=True)
    if options.json:
        said = {"images": images, "images_per_record": options.pack, "load": os.getloadavg()[0], "methods": found}
        options.json.write_text(json.dumps(said, indent=1) + "\n")


if __name__ == "__main__":
    main()
