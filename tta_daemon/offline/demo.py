"""The daemon at work on this machine: real images through a real broker while the world changes. Read `run` first."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from tta_daemon.control.toml import document
from tta_daemon.errors import TtaError
from tta_daemon.offline import scans, traffic
from tta_daemon.offline.broker import Broker, free_port
from tta_daemon.offline.camera import Cameras
from tta_daemon.offline.interruption import Interruption
from tta_daemon.offline.listener import Listener
from tta_daemon.offline.moment import Moment, Pace
from tta_daemon.offline.outcome import report, summarize
from tta_daemon.offline.scoreboard import Scoreboard
from tta_daemon.offline.screen import Screen
from tta_daemon.offline.service import Service, ServiceFailed
from tta_daemon.offline.worlds import journey

TOPICS = {"images": 1, "answers": 2, "labels": 1, "images-dlq": 1}
"""Topics and their partitions. The daemon makes none: in production they exist.

The images have one partition, so that the daemon sees the worlds one after another even where it has fallen behind.
"""

WEIGHTS = Path(__file__).with_name("digits.safetensors")
JUNK = 20
READY_S = 90.0
SILENCE_S = 45.0
"""Time without a single answer or dead letter after which the demo gives up."""

STOP_S = 40.0
INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Size:
    """How long a demo is."""

    laps: int
    per_stretch: int
    per_second: float


FULL = Size(laps=2, per_stretch=640, per_second=160)
QUICK = Size(laps=1, per_stretch=320, per_second=240)


def configuration(bootstrap: str, port: int, weights: Path) -> dict[str, dict[str, Any]]:
    """Return the daemon's settings, as a user would write them into a TOML file. Everything else has its default."""
    return {
        "kafka": {
            "bootstrap_servers": [bootstrap],
            "input_topic": "images",
            "output_topic": "answers",
            "labels_topic": "labels",
            "dead_letter_topic": "images-dlq",
            "delivery": "exactly_once",
            "transactional_id": "demo",
        },
        "model": {
            "factory": "tta_daemon.offline.digits:network",
            "weights": str(weights),
            "input_size": [28, 28],
            "mean": [0.1307, 0.1307, 0.1307],
            "std": [0.3081, 0.3081, 0.3081],
            "threads": 1,  # the network is small, and the broker and this demo want a core too
        },
        "adapt": {"method": "tent"},
        "batch": {"size": 64, "patience_s": 1.0},
        "limits": {"waiting_images": 128},  # read little at once and commit often: someone is looking at the answers
        "guard": {"look_every": 1},  # the frozen model answers every image, for the scoreboard
        "settle": {"every_s": 0.5},
        "http": {"port": port},
    }


def run(*, summary: Path | None = None, chart: Path | None = None, quick: bool = False, seed: int = 0) -> int:
    """Run the demo and return its exit code: 0 where every record came out exactly once, as it should."""
    console = Console(soft_wrap=True, highlight=False)
    began = time.monotonic()
    try:
        with Interruption() as interruption, TemporaryDirectory(prefix="tta-demo-") as folder:
            board, told = stream(QUICK if quick else FULL, seed, Path(folder), console, interruption)
    except TtaError as error:
        console.print(f"The demo failed: {error}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("Interrupted. The daemon and the broker have been ended.")
        return INTERRUPTED
    numbers = summarize(board, told) | {"seed": seed, "quick": quick, "seconds": round(time.monotonic() - began, 1)}
    report(board, numbers, console)
    if summary is not None:
        summary.parent.mkdir(parents=True, exist_ok=True)
        summary.write_text(json.dumps(numbers, indent=2) + "\n")
        console.print(f"The numbers: {summary}")
    if chart is not None:
        from tta_daemon.offline.chart import draw  # noqa: PLC0415 - matplotlib is a second to import

        draw(board, chart)
        console.print(f"The chart: {chart}")
    return 1 if numbers["problems"] else 0


def stream(
    size: Size, seed: int, folder: Path, console: Console, interruption: Interruption
) -> tuple[Scoreboard, dict[str, float]]:
    """Start everything, send everything, wait until everything has come out, end everything.

    Returns the board with what came out, and what the daemon said of itself at the end.
    """
    with Broker(folder / "broker") as broker:
        broker.create_topics(TOPICS)
        console.print(f"A Kafka broker listens at {broker.bootstrap}.")
        port, config = free_port(), folder / "config.toml"
        config.write_text(document(configuration(broker.bootstrap, port, WEIGHTS)))
        console.print(f"Starting: tta-daemon run --config {config}")
        with (
            Service(config, f"http://127.0.0.1:{port}", folder / "daemon.log") as service,
            Listener(broker.bootstrap, "answers", "images-dlq") as listener,
        ):
            board = planned(size, seed)
            for _ in service.getting_ready(READY_S):
                interruption.heed()
            console.print(f"It is ready; its status page: {service.url}/")
            console.print(f"Sending {len(board.sent):,} records, {JUNK} of them malformed.")
            cameras = Cameras(broker.bootstrap, board.sent, size.per_second, lambda: board.came_out)
            with cameras, Screen(console) as screen:
                for moment in moments(board, cameras, listener, service):
                    screen.show(moment)
                    interruption.heed()
            told = service.metrics() or dict(moment.metrics)  # what it said last, if it is too busy to say
            if (code := service.stop(STOP_S)) != 0:
                raise ServiceFailed(f"the daemon ended with exit code {code}{service.last_words()}")
            while listener.hear(board, timeout_s=0.5):
                pass  # what comes now has come twice, and the board will say so
    return board, told


def planned(size: Size, seed: int) -> Scoreboard:
    """Return the board on which every record that will be sent waits for its answer."""
    _, unseen = scans.load()
    way = journey(size.laps)
    return Scoreboard(way, traffic.plan(way, unseen, size.per_stretch, JUNK, seed))


def moments(board: Scoreboard, cameras: Cameras, listener: Listener, service: Service) -> Iterator[Moment]:
    """Score what comes out, until everything has come and the daemon has seen every label."""
    began = moved = looked = time.monotonic()
    metrics: dict[str, float] = {}
    pace = Pace()
    while not (board.complete and cameras.done and _labels_joined(board, metrics)):
        now = time.monotonic()
        if listener.hear(board, timeout_s=0.1):
            moved = now
        if now - looked > 1.0:
            metrics, looked = service.metrics() or metrics, now
        yield Moment(board, metrics, now - began, pace.at(now, board.came_out))
        service.must_run()
        if cameras.error is not None:
            raise TtaError(f"the images could not be sent: {cameras.error!r}")
        if now - moved > SILENCE_S:
            missing = f"{len(board.sent) - board.came_out} records are missing, or labels were not joined"
            raise ServiceFailed(f"nothing came for {SILENCE_S:g} s; {missing}{service.last_words()}")


def _labels_joined(board: Scoreboard, metrics: dict[str, float]) -> bool:
    return metrics.get('tta_accuracy_images{window="all"}', 0.0) >= board.answered
