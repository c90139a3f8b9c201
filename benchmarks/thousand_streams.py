"""A thousand streams in one process on a ResNet-20: memory, bytes each, and images a second of CPU against one stream.

    python benchmarks/thousand_streams.py --json benchmarks/results/thousand-streams-resnet20.json

The daemon's own loop on a log in memory, each record a batch of `--batch` images, cameras in turn. Every state is then
compared with that of a learner that saw this camera alone.
"""

import argparse
import io
import json
import time
from pathlib import Path
from typing import NamedTuple

import development
import numpy as np
import structlog
import torch

from tta_daemon.assemble import labels_of
from tta_daemon.control.config import Config
from tta_daemon.control.snapshot import decode
from tta_daemon.control.stream_states import MemoryStates, encoded
from tta_daemon.control.web.board import Board
from tta_daemon.daemon import Daemon, World
from tta_daemon.learner import Learner
from tta_daemon.model.load import Deployed
from tta_daemon.stream.memory_log import MemoryLog, MemorySink, MemorySource
from tta_daemon.stream.records import Stream
from tta_daemon.watch.metrics import Metrics


class Way(NamedTuple):
    """How many streams there are, and how many of them find room in memory."""

    streams: int
    resident: int


def main() -> None:
    """Measure one stream, then many, with room for all and for few."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    development.add_arguments(parser)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3, help="batches of each stream")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--compared", type=int, default=20, help="streams whose state is compared")
    parser.add_argument("--method", default="tent")
    parser.add_argument("--guard", default="guarded", help="mode of the guard")
    parser.add_argument("--json", type=Path, help="write the results here, too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    deployed = development.deployed(options.data, options.depth)
    pixels = development.stream(options.data).pixels("fog")
    many = options.streams
    rows = {}
    for way in (Way(1, 1), Way(many, many), Way(many, max(1, many // 10))):
        row = measured(way, deployed, pixels, options)
        rows[f"{way.streams} streams, {way.resident} in memory"] = row
        print(way, json.dumps(row), flush=True)
    one = rows["1 streams, 1 in memory"]["images_per_cpu_s"]
    for row in rows.values():
        row["share_of_one_stream"] = round(row["images_per_cpu_s"] / one, 3)
    print(json.dumps({name: row["share_of_one_stream"] for name, row in rows.items()}))
    if options.json:
        said = {"method": options.method, "batch": options.batch, "rounds": options.rounds, "rows": rows}
        options.json.write_text(json.dumps(said, indent=1) + "\n")


def measured(way: Way, deployed: Deployed, pixels: np.ndarray, options: argparse.Namespace) -> dict[str, float]:
    """One run: each record is a batch, cameras take turns."""
    rounds = options.rounds * (options.streams // way.streams if way.streams == 1 else 1)
    rounds = min(rounds, 300)
    config = configured(options, way.resident)
    log, states, metrics = MemoryLog({"images": 1, "answers": 1}), MemoryStates(), Metrics()
    learner = Learner(deployed, config.adapt, config.watch.sample, config.guard)

    def connect() -> World:
        source = MemorySource(log, ["images"], config.kafka.group_id)
        return World(source, MemorySink(log), labels_of(config, deployed, None, metrics), states=states)

    daemon = Daemon(config, deployed, connect, learner, metrics, Board())
    daemon.connect()
    before_kib, seconds, images = development.resident_kib(), 0.0, 0
    for turn in range(rounds):
        for start in range(0, way.streams, 50):
            for camera in range(start, min(way.streams, start + 50)):
                log.append("images", picture(pixels, camera, turn, options.batch), key=b"cam-%d" % camera, headers=NPY)
                images += options.batch
            began = time.process_time()
            while any(daemon.source.lag().values()) or daemon.batcher.waiting:
                daemon.turn()
            seconds += time.process_time() - began
    after_kib = development.resident_kib()
    daemon.drain()
    place = log.of("images")[0]
    sizes = [len(encoded(states.saved[Stream(f"cam-{n}", place)])) for n in range(way.streams)]
    wrong = sum(not same(states, Stream(f"cam-{n * way.streams // max(1, options.compared)}", place), rounds, deployed,
                         config, pixels) for n in range(min(way.streams, options.compared)))  # fmt: skip
    daemon.disconnect()
    value = metrics.registry.get_sample_value
    return {
        "images_per_cpu_s": round(images / seconds, 1),
        "rss_mib": round(after_kib / 1024, 1),
        "rss_kib_per_stream": round((after_kib - before_kib) / way.streams, 1),
        "saved_kib_per_stream": round(sum(sizes) / len(sizes) / 1024, 1),
        "evicted": value("tta_streams_evicted_total") or 0.0,
        "returned": value("tta_streams_returned_total") or 0.0,
        "states_that_differ": wrong,
    }


NPY = (("content-type", b"application/x-npy"),)


def picture(pixels: np.ndarray, camera: int, turn: int, batch: int) -> bytes:
    """What a camera shows at its turn."""
    at = (camera * 7 + turn * batch) % (len(pixels) - batch)
    written = io.BytesIO()
    np.save(written, pixels[at : at + batch])
    return written.getvalue()


def same(  # noqa: PLR0913, PLR0917 - each named
    states: MemoryStates, stream: Stream, rounds: int, deployed: Deployed, config: Config, pixels: np.ndarray
) -> bool:
    """Whether what was saved of a stream is what it learns alone, bit for bit."""
    alone = Learner(deployed, config.adapt, config.watch.sample, config.guard)
    camera, batch = int(stream.name.removeprefix("cam-")), config.batch.size
    for turn in range(rounds):
        at = (camera * 7 + turn * batch) % (len(pixels) - batch)
        shown = torch.from_numpy(pixels[at : at + batch].copy()).permute(0, 3, 1, 2).contiguous().float() / 255
        alone.answer(shown).learn()
    kept = decode(encoded(states.saved[stream])).memory
    return all(torch.equal(kept[name], tensor) for name, tensor in alone.adapter.dump().items())


def configured(options: argparse.Namespace, resident: int) -> Config:
    """Whole batches in a record each, learned from one by one."""
    batch = options.batch
    return Config.model_validate({
        "adapt": {"method": options.method, "learn_from": batch},
        "guard": {"mode": options.guard},
        "batch": {"size": batch, "patience_s": 1000.0},
        "limits": {"waiting_images": 64 * batch},
        "settle": {"every_s": 1.0},
        "streams": {"by": "key", "max_resident": resident},
        "kafka": {"input_topic": "images", "output_topic": "answers"},
    })  # fmt: skip


if __name__ == "__main__":
    main()
