"""Images a second through a real broker and through the same loop in memory, and how soon answers leave.

    python benchmarks/throughput.py --out benchmarks/results/throughput.json

Both loops take turns on the same records. Processor seconds are those of the daemon's process, clients included; other
processes do not lengthen them. On an idle machine, one thread of torch, they are what the wall clock shows.
"""

import argparse
import io
import json
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import contestants
import numpy as np
import torch
from development import WEIGHTS, add_arguments, stream
from kafka import KafkaProducer
from PIL import Image

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # the small network's factory

from nets import CifarResNet

from tta_daemon.answered import Answered
from tta_daemon.assemble import labels_of, on_kafka
from tta_daemon.control import logs
from tta_daemon.control.config import Config
from tta_daemon.control.sections import Log
from tta_daemon.control.web.board import Board
from tta_daemon.daemon import Daemon, World, decoder_of
from tta_daemon.learner import Learner
from tta_daemon.model.load import Deployed, load
from tta_daemon.offline.broker import Broker
from tta_daemon.stream.connection import connection
from tta_daemon.stream.memory_log import MemoryLog, MemorySink, MemorySource
from tta_daemon.stream.records import Batch, Partition, Position, Record
from tta_daemon.watch.metrics import Metrics

Values = Sequence[bytes]
DEADLINE_S = 300.0


def resnet(depth: int) -> torch.nn.Module:
    """The factory of the small network."""
    return CifarResNet(depth)


def lite0() -> torch.nn.Module:
    """The factory of EfficientNet-Lite0."""
    return contestants.lite0().network


def encoded(pictures: np.ndarray, form: str) -> list[bytes]:
    """Pictures, N x H x W x 3, as files."""
    files = []
    for picture in pictures:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, form, **({"quality": 90} if form == "JPEG" else {}))
        files.append(buffer.getvalue())
    return files


def cases(data: Path) -> dict[str, tuple[dict[str, Any], Values, str, int]]:
    """What is sent to which network: its section, the files, their type, the size of a batch."""
    small = (next(stream(data).batches("clean", 1000))[0].permute(0, 2, 3, 1) * 255).byte().numpy()
    large = torch.cat(contestants.photographs(32, 4)).mul(255).byte().permute(0, 2, 3, 1).numpy()
    tiny = {"factory": "throughput:resnet", "arguments": {"depth": 20}, "weights": str(data / WEIGHTS[20]),
            "checkpoint_key": "state_dict", "strip_prefix": "module.", "input_size": [32, 32],
            "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}  # fmt: skip
    lite = {"factory": "throughput:lite0", "input_size": [224, 224], "mean": [0.498] * 3, "std": [0.502] * 3}
    return {
        "ResNet-20, PNG of 32 pixels": (tiny, encoded(small, "PNG"), "image/png", 200),
        "EfficientNet-Lite0, JPEG of 224 pixels": (lite, encoded(large, "JPEG"), "image/jpeg", 32),
    }


def configured(model: dict[str, Any], method: str, size: int, bootstrap: str = "nowhere:1") -> Config:
    """Learning from every batch, without guard."""
    name = uuid.uuid4().hex[:8]
    kafka = {"bootstrap_servers": [bootstrap], "input_topic": f"images-{name}", "output_topic": f"answers-{name}",
             "dead_letter_topic": f"dlq-{name}", "labels_topic": "", "group_id": f"group-{name}"}  # fmt: skip
    return Config.model_validate({"kafka": kafka, "model": {**model, "threads": 1}, "adapt": {"method": method},
                                  "batch": {"size": size, "patience_s": 600.0}, "guard": {"mode": "off"},
                                  "watch": {"sample": 0.0}, "limits": {"waiting_images": size}})  # fmt: skip


class Counted(Metrics):
    """Notes how many images were answered, and when."""

    def __init__(self) -> None:
        super().__init__()
        self.marks = [(0, 0.0, 0.0)]

    def answered(self, batch: Batch, answered: Answered) -> None:
        """One batch more."""
        super().answered(batch, answered)
        self.marks.append((self.marks[-1][0] + batch.size, time.process_time(), time.perf_counter()))


def through(config: Config, deployed: Deployed, world: Callable[[Metrics], World], count: int) -> dict[str, float]:
    """Seconds an image from the first answered batch to the last, of processor and wall time."""
    counted = Counted()
    learner = Learner(deployed, config.adapt, config.watch.sample, config.guard)
    daemon = Daemon(config, deployed, lambda: world(counted), learner, counted, Board())
    deadline = time.monotonic() + DEADLINE_S
    while not daemon.connect():
        time.sleep(0.1)
    while counted.marks[-1][0] < count:
        daemon.turn()
        if time.monotonic() > deadline:
            raise SystemExit(f"{counted.marks[-1][0]} of {count} answered after {DEADLINE_S} s")
    daemon.drain()
    daemon.disconnect()
    daemon.decoder.close()
    first, last = counted.marks[1], counted.marks[-1]
    images, cpu, wall = (after - before for before, after in zip(first, last, strict=True))
    return {"cpu_s": cpu / images, "wall_s": wall / images}


def in_memory(config: Config, deployed: Deployed, values: Values, kind: str) -> dict[str, float]:
    """The loop on a log in memory."""
    kafka = config.kafka
    log = MemoryLog(dict.fromkeys((kafka.input_topic, kafka.output_topic, kafka.dead_letter_topic), 1))
    for value in values:
        log.append(kafka.input_topic, value, headers=(("content-type", kind.encode()),))

    def world(metrics: Metrics) -> World:
        source = MemorySource(log, [kafka.input_topic], kafka.group_id)
        return World(source, MemorySink(log, exactly_once=False), labels_of(config, deployed, None, metrics))

    return through(config, deployed, world, len(values))


def on_broker(config: Config, deployed: Deployed, values: Values, kind: str, broker: Broker) -> dict[str, float]:
    """The loop on a real broker; everything was sent before."""
    kafka = config.kafka
    broker.create_topics({kafka.input_topic: 1, kafka.output_topic: 1, kafka.dead_letter_topic: 1})
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap)
    for value in values:
        producer.send(kafka.input_topic, value, headers=[("content-type", kind.encode())], partition=0)
    producer.flush()
    producer.close()
    client = connection(kafka)
    return through(config, deployed, lambda metrics: on_kafka(config, client, deployed, metrics), len(values))


def records(values: Values, kind: str) -> list[Record]:
    """The files as records."""
    at = (Position(Partition("images", 0), n) for n in range(len(values)))
    headers = (("content-type", kind.encode()),)
    return [Record(position, None, value, headers, 0.0) for position, value in zip(at, values, strict=True)]


def decoding(config: Config, values: Values, kind: str) -> float:
    """Processor seconds an image for decoding alone."""
    decoder = decoder_of(config, config.model.input_size)
    began = time.process_time()
    decoder.decode_all(records(values, kind))
    took = time.process_time() - began
    decoder.close()
    return took / len(values)


def latency(config: Config, deployed: Deployed, values: Values, kind: str, turns: int) -> dict[str, list[float]]:
    """Processor milliseconds from records to logits: 5th, 50th and 95th percentile, learning and not, in turns."""
    decoder = decoder_of(config, config.model.input_size)
    polled = records(values[: config.batch.size], kind)
    learners = {
        when: Learner(deployed, config.adapt.model_copy(update={"when": when}), 0.0, config.guard)
        for when in ("always", "never")
    }
    took: dict[str, list[float]] = {when: [] for when in learners}
    for _ in range(turns):
        for when, learner in learners.items():
            began = time.process_time()
            samples = decoder.decode_all(polled)
            images = torch.from_numpy(Batch(samples[0].of, tuple(samples)).images())
            answered = learner.answer(images)
            answered.logits.softmax(1).tolist()
            took[when].append(1000 * (time.process_time() - began))
            answered.learn()
    decoder.close()
    return {when: np.percentile(ms[1:], [5, 50, 95]).round(2).tolist() for when, ms in took.items()}


def measured(name: str, data: Path, broker: Broker, options: argparse.Namespace) -> dict[str, Any]:
    """One network and kind of file: by method the least seconds of all rounds."""
    network, values, kind, size = cases(data)[name]
    model = {**network, "mixed_precision": options.mixed_precision}
    found: dict[str, Any] = {"images": len(values), "batch": size}
    for method in options.methods:
        config = configured(model, method, size, broker.bootstrap)
        deployed, rounds, found[method] = load(config.model), [], {}
        for _ in range(options.rounds):
            fresh = configured(model, method, size, broker.bootstrap)
            rounds.append((in_memory(fresh, deployed, values, kind), on_broker(fresh, deployed, values, kind, broker)))
        if rounds:
            found[method] = compared(rounds)
            found[method]["decoding"] = {"cpu_s": min(decoding(config, values, kind) for _ in range(options.rounds))}
        found[method]["latency_ms"] = latency(config, deployed, values, kind, options.turns)
        print(f"{name}, {method}: {json.dumps(found[method])}", flush=True)
    return found


def compared(rounds: Sequence[tuple[dict[str, float], dict[str, float]]]) -> dict[str, Any]:
    """The least seconds in memory and through the broker, and the one as a share of the other."""
    best: dict[str, Any] = {
        side: {key: min(pair[i][key] for pair in rounds) for key in ("cpu_s", "wall_s")}
        for i, side in enumerate(("memory", "broker"))
    }
    best["broker_share"] = {key: best["memory"][key] / best["broker"][key] for key in ("cpu_s", "wall_s")}
    return best


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--rounds", type=int, default=3, help="through either log; 0 for latencies alone")
    parser.add_argument("--networks", nargs="*", default=["ResNet-20", "EfficientNet-Lite0"])
    parser.add_argument("--turns", type=int, default=12, help="batches for each latency")
    parser.add_argument("--methods", nargs="*", default=["source", "tent"])
    parser.add_argument("--mixed-precision", default="no", choices=["no", "bfloat16"])
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logs.configure(Log(level="error"), sys.stderr)
    with tempfile.TemporaryDirectory() as folder, Broker(Path(folder)) as broker:
        names = [name for name in cases(options.data) if name.partition(",")[0] in options.networks]
        found = {name: measured(name, options.data, broker, options) for name in names}
    if options.out:
        about = {"threads": options.threads, "mixed_precision": options.mixed_precision, "torch": torch.__version__,
                 "cores": os.cpu_count(), "load": os.getloadavg()}  # fmt: skip
        options.out.write_text(json.dumps({**about, "cases": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
