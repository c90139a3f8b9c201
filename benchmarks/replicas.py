"""Images a second of one replica and of two, as far as two cores can show.

    python benchmarks/replicas.py --json benchmarks/results/replicas-resnet20.json

Processes on a real broker: PNGs of 32 pixels, an adapter for each camera, exactly once, states in the changelog, the
guard on. They take turns. A rate is from when a tenth was answered to when nine tenths were; beside it stand the images
for each processor second that the replicas had, clients included, and the load of the machine at the end.
"""

import argparse
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
from development import WEIGHTS, add_arguments, stream
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from PIL import Image

sys.path.append(tests := str(Path(__file__).resolve().parents[1] / "tests"))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (tests, os.environ.get("PYTHONPATH"))))  # the network's factory
os.environ["OMP_NUM_THREADS"] = "1"

from trials.members import ANSWERS, BURIED, IMAGES, Member, end

from tta_daemon.offline.broker import Broker

PARTITIONS, CAMERAS, BATCH = 8, 16, 32
DEADLINE_S = 180.0
REST_S = 5.0
TICKS = os.sysconf("SC_CLK_TCK")


def sections(data: Path, method: str) -> dict[str, dict[str, object]]:
    """What the replicas are told beside what all trials tell theirs."""
    model = {"factory": "nets:CifarResNet", "arguments": {"depth": 20}, "weights": str(data / WEIGHTS[20]),
             "checkpoint_key": "state_dict", "strip_prefix": "module.", "input_size": [32, 32],
             "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}  # fmt: skip
    return {
        "model": model,
        "adapt": {"method": method, "learn_from": BATCH},
        "batch": {"size": BATCH, "patience_s": 5.0},
        "streams": {"by": "key", "max_resident": CAMERAS},
        "limits": {"waiting_images": 2 * CAMERAS * BATCH},
        "kafka": {"session_timeout_s": 60.0},
        "settle": {"every_s": 2.5},
        "checkpoint": {"every_s": 5.0},
        "log": {"level": "warning"},
    }


def feed(bootstrap: str, data: Path, images: int, pack: int = 1) -> None:
    """The same number of images from each camera, in turns: a PNG each, or so many in a record as they are."""
    pictures = (next(stream(data).batches("fog", 1000))[0].permute(0, 2, 3, 1) * 255).byte().numpy()
    producer = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=20)
    headers = [("content-type", b"image/png" if pack == 1 else b"application/x-npy")]
    for n in range(images // pack):
        camera, at, written = n % CAMERAS, n * 7 % (len(pictures) - pack), io.BytesIO()
        if pack == 1:
            Image.fromarray(pictures[at]).save(written, "PNG")
        else:
            np.save(written, pictures[at : at + pack])
        key, partition = b"cam-%d" % camera, camera % PARTITIONS
        producer.send(IMAGES, written.getvalue(), key, headers, partition=partition)
    producer.flush()
    producer.close()


def rate(data: Path, method: str, replicas: int, images: int) -> dict[str, float]:
    """Images a second of so many processes, once all have their partitions."""
    with tempfile.TemporaryDirectory() as folder, Broker(Path(folder) / "broker") as broker:
        broker.create_topics({IMAGES: PARTITIONS, ANSWERS: 2, BURIED: 1})
        told = sections(data, method)
        members = [Member(broker, Path(folder), f"replica-{n}", "exactly_once", told) for n in range(replicas)]
        try:
            for member in members:
                member.start()
            at_rest(members)
            before = sum(map(cpu_s, members))
            feed(broker.bootstrap, data, images)
            until(lambda: sum(map(images_of, members)) >= images, f"{images} answered")
            spent, load, rss = sum(map(cpu_s, members)) - before, os.getloadavg()[0], rss_mib(members[0])
        finally:
            end(members)
        stamps = sorted(answered_at(broker.bootstrap))
    seconds = (stamps[len(stamps) * 9 // 10] - stamps[len(stamps) // 10]) / 1000
    return {"images_per_s": round(0.8 * len(stamps) / seconds, 1), "images_per_cpu_s": round(len(stamps) / spent, 1),
            "rss_mib": rss, "load": round(load, 2)}  # fmt: skip


def at_rest(members: list[Member]) -> None:
    """Wait until everybody has had as much as the others for a while."""
    rested_at = time.monotonic()

    def rested() -> bool:
        nonlocal rested_at
        if [member.held for member in members] != [PARTITIONS // len(members)] * len(members):
            rested_at = time.monotonic()
        return time.monotonic() - rested_at > REST_S

    until(rested, "partitions shared out")


def until(condition: Callable[[], bool], words: str) -> None:
    """Wait for it."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {DEADLINE_S:g} s: {words}")
        time.sleep(0.2)


def cpu_s(member: Member) -> float:
    """Processor seconds of its process so far."""
    fields = Path(f"/proc/{member.service.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def rss_mib(member: Member) -> float:
    """Memory of its process."""
    status = Path(f"/proc/{member.service.pid}/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024, 1)


def images_of(member: Member) -> float:
    """Images that it has answered."""
    return member.service.metrics().get("tta_images_answered_total", 0.0)


def answered_at(bootstrap: str) -> Iterator[int]:
    """When each answer was sent, in milliseconds."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
    places = [TopicPartition(ANSWERS, number) for number in range(2)]
    consumer.assign(places)
    consumer.seek_to_beginning(*places)
    ends = consumer.end_offsets(places)
    while any(consumer.position(place) < end for place, end in ends.items()):
        for records in consumer.poll(1000).values():
            yield from (record.timestamp for record in records)
    consumer.close()


def main() -> None:
    """Measure in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--method", default="tent")
    parser.add_argument("--batches", type=int, default=12, help="of each camera, in a turn")
    parser.add_argument("--turns", type=int, default=3, help="for each number of replicas")
    parser.add_argument("--json", type=Path, help="write the results here, too")
    options = parser.parse_args()
    images = options.batches * BATCH * CAMERAS
    said: dict[str, object] = {"method": options.method, "images": images, "batch": BATCH}
    turns: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    for _ in range(options.turns):
        for replicas, found in turns.items():
            found.append(rate(options.data, options.method, replicas, images))
            print(replicas, json.dumps(found[-1]), flush=True)
    pairs = list(zip(turns[1], turns[2], strict=True))
    for what in ("images_per_s", "images_per_cpu_s"):
        ratios = sorted(round(two[what] / one[what], 2) for one, two in pairs)
        said[f"two to one, {what}"] = {"median": median(ratios), "all": ratios}
        print(what, said[f"two to one, {what}"], flush=True)
    said["turns"] = turns
    if options.json:
        options.json.write_text(json.dumps(said, indent=1) + "\n")


if __name__ == "__main__":
    main()
