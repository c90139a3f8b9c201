"""A daemon process under steady load whose file changes all the time: what is lost, repeated, delayed or forgotten."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from world import Memory, config, network

from trials.reload_files import ANY, NEUTRAL, Drawer, File, Place, Sections, Way
from trials.steady import BATCH, DEADLINE_S, Load, Reader, answered, until
from tta_daemon.control.asking import NoAnswer, ask
from tta_daemon.control.checkpoint_file import FileCheckpoint
from tta_daemon.control.config import load
from tta_daemon.control.snapshot import Snapshot
from tta_daemon.control.toml import document
from tta_daemon.offline.broker import create_topics, free_port

TOKEN = "of the soak"  # noqa: S105 - the test's own
TESTS = Path(__file__).parents[1]


class Deployment:
    """A daemon process, its topics, its folder and its HTTP pages."""

    def __init__(self, bootstrap: str, folder: Path) -> None:
        folder.mkdir()
        self.folder, self.place = folder, Place(folder)
        tag, port = uuid.uuid4().hex[:8], free_port()
        self.images, self.answers = f"images-{tag}", f"answers-{tag}"
        self.letters, self.url = f"{self.images}-dlq", f"http://127.0.0.1:{port}"
        create_topics({"bootstrap_servers": bootstrap}, dict.fromkeys((self.images, self.answers, self.letters), 1))
        self.base: Sections = {
            "kafka": {
                "bootstrap_servers": [bootstrap],
                "group_id": f"g-{tag}",
                "group_instance_id": "pod-0",
                "input_topic": self.images,
                "output_topic": self.answers,
                "delivery": "exactly_once",
            },
            "model": {"factory": "world:network", "input_size": [16, 16], "threads": 1},
            "batch": {"size": BATCH, "patience_s": 1000.0},
            "adapt": {"method": "tent", "learn_from": 4},
            "settle": {"every_s": 0.05},
            "checkpoint": {"kind": "file", "folder": "state", "every_s": 1.0},
            "http": {"port": port, "lifecycle": True, "token": TOKEN},
        }
        other = network()
        with torch.no_grad():
            next(other.parameters()).mul_(0.5)
        torch.save(other.state_dict(), folder / "other.pt")
        self.place.move(document(self.base).encode())

    def start(self) -> None:
        """Start the process, and wait until it is ready."""
        command = [sys.executable, "-m", "tta_daemon.cli", "run", "--config", str(self.place.file)]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("TTA_")}
        environ |= {"PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}", "OMP_NUM_THREADS": "1"}
        with (self.folder / "log").open("ab") as said:
            self.process = subprocess.Popen(command, stdout=said, stderr=said, env=environ)
        until(self._ready, "the daemon is ready")

    def end(self) -> int:
        """Ask the process to drain and end; its exit code."""
        self.process.terminate()
        return self.process.wait(DEADLINE_S)

    def close(self) -> None:
        """End the process, whatever happened."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def status(self) -> Mapping[str, Any]:
        """What `/api/status` says."""
        assert self.process.poll() is None, self.log()[-3000:]
        found: Mapping[str, Any] = json.loads(ask(self.url, "/api/status", patience_s=DEADLINE_S)[1])
        return found

    def metrics(self) -> dict[str, float]:
        """What `/metrics` says, series by series."""
        lines = ask(self.url, "/metrics", patience_s=DEADLINE_S)[1].splitlines()
        return {name: float(value) for name, _, value in (s.rpartition(" ") for s in lines if not s.startswith("#"))}

    def post(self, page: str) -> tuple[int, str]:
        """Ask for something that changes the daemon."""
        return ask(self.url, page, method="POST", token=TOKEN, patience_s=DEADLINE_S)

    def log(self) -> str:
        """Everything that it said."""
        return (self.folder / "log").read_text()

    def state(self) -> Snapshot:
        """The newest state that is saved."""
        copy = self.folder / f"state-{time.monotonic_ns()}"
        shutil.copytree(self.folder / "state", copy)
        with closing(FileCheckpoint(copy)) as checkpoint:
            found = checkpoint.latest("")
        assert found is not None
        return found

    def digest(self, file: File) -> str:
        """The digest of a good file; empty for a bad one."""
        (self.folder / "drawn").write_bytes(file.content)
        return "" if file.refused else load(self.folder / "drawn", {}).digest

    def reload(self, file: File, way: Way) -> float:
        """Bring a file into its place, and wait until it is in force or refused; the seconds that took."""
        digest, began = self.digest(file), time.monotonic()
        (self.place.swap if way is Way.SWAP else self.place.move)(file.content)
        if way is Way.HANGUP:
            self.process.send_signal(signal.SIGHUP)
        if way is Way.POST:
            code, text = self.post("/-/reload")
            assert (code, file.refused in text) == (409 if file.refused else 200, True), (file, code, text)
        until(lambda: self._came(file, digest), f"{file.name} by {way}: {file.refused or 'applied'}")
        return time.monotonic() - began

    def _came(self, file: File, digest: str) -> bool:
        status = self.status()
        words, result = status["reload"]["words"], status["reload"]["result"]
        return (result == "refused" and file.refused in words) if file.refused else status["config"]["digest"] == digest

    def _ready(self) -> bool:
        assert self.process.poll() is None, self.log()[-3000:]
        try:
            return ask(self.url, "/-/ready")[0] == 200
        except NoAnswer:
            return False


@dataclass(slots=True)
class Part:
    """What one stretch of the stream showed."""

    seconds: float = 0.0
    records: int = 0
    reloads: dict[str, int] = field(default_factory=dict)
    slowest_s: dict[str, float] = field(default_factory=dict)
    longest_gap_written_s: float = 0.0
    longest_gap_seen_s: float = 0.0


@dataclass(slots=True)
class Report:
    """What a soak showed, part by part and of the whole."""

    parts: dict[str, Part] = field(default_factory=dict)
    sent: int = 0
    lost: int = 0
    repeated: int = 0
    dead_letters: int = 0
    rebalances: int = 0
    undelivered: int = 0
    counted: dict[str, float] = field(default_factory=dict)
    same_state: bool = False
    same_answers: int = 0
    compared: int = 0

    def plain(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


class Soak:
    """One daemon and its stream; part after part, each with its own kind of reloads.

    Args:
        bootstrap: the broker.
        folder: for everything that is written.
        count: reloads in each of the two parts that have any.
        calm_s: how long the stream is watched without any.
        seed: of all that is drawn.
    """

    def __init__(self, bootstrap: str, folder: Path, count: int, calm_s: float, seed: int = 0) -> None:
        self.bootstrap, self.folder, self.count, self.calm_s, self.seed = bootstrap, folder, count, calm_s, seed
        self.report = Report()

    def run(self) -> Report:
        """Calm, then neutral reloads, then any; then, to compare, the same records without a reload."""
        with ExitStack() as ending:
            daemon = self.daemon = Deployment(self.bootstrap, self.folder / "reloaded")
            self.load = ending.enter_context(closing(Load(self.bootstrap, daemon.images)))
            self.reader = ending.enter_context(closing(Reader(self.bootstrap, daemon.answers, daemon.letters)))
            ending.callback(daemon.close)
            daemon.start()
            self.part("beginning", None)
            self.part("no reloads", None)
            self.part("neutral", Drawer(daemon.base, NEUTRAL, self.seed))
            daemon.reload(File("as it began", document(daemon.base).encode()), Way.HANGUP)  # the seed as it was, too
            state, count = self.learned(), self.load.sent
            self.load.nonsense = True
            self.part("any", Drawer(daemon.base | {"batch": {"size": BATCH, "patience_s": 0.05}}, ANY, self.seed))
            self.tally()
        self.compare(state, count)
        return self.report

    def part(self, name: str, drawer: Drawer | None) -> None:
        """One stretch of steady load, with reloads or without."""
        part, sent, heard, began = Part(), self.load.sent, len(self.reader.heard), time.monotonic()
        with self.load.steady():
            if drawer is None:
                time.sleep(1.0 if name == "beginning" else self.calm_s)
            for _ in range(self.count if drawer else 0):
                in_force = self.daemon.status()["config"]["digest"]
                while self.daemon.digest(file := drawer.draw()) == in_force:
                    pass
                way = drawer.way()
                seconds = self.daemon.reload(file, way)
                for tag in ("refused" if file.refused else "applied", way):
                    part.reloads[tag] = part.reloads.get(tag, 0) + 1
                part.slowest_s[way] = max(part.slowest_s.get(way, 0.0), seconds)
                time.sleep(drawer.pause_s())
        until(lambda: len(self.reader.times()) == self.load.sent, f"all of {self.load.sent} records are answered")
        part.seconds, part.records = time.monotonic() - began, self.load.sent - sent
        part.longest_gap_written_s = self.reader.gap_s(heard, "written_s")
        part.longest_gap_seen_s = self.reader.gap_s(heard, "seen_s")
        self.report.parts[name] = part

    def learned(self) -> Snapshot:
        """What was learned so far, saved on demand."""
        code, words = self.daemon.post("/-/checkpoint")
        assert code == 200, words
        return self.daemon.state()

    def tally(self) -> None:
        """Count what came out, with the daemon ended."""
        report, metrics = self.report, self.daemon.metrics()
        assert self.daemon.end() == 0
        time.sleep(1.0)  # for what nobody waits for: an answer too many
        times = self.reader.times()
        report.sent = self.load.sent
        report.lost = report.sent - len(times)
        report.repeated = sum(times.values()) - len(times)
        report.dead_letters = sum(not one.says.startswith("[") for one in self.reader.heard)
        report.undelivered = round(metrics["tta_delivery_failures_total"])
        report.counted = {name: value for name, value in metrics.items() if name.startswith("tta_config_reloads_total")}
        report.rebalances = self.daemon.log().count("partitions moved") - 1

    def compare(self, state: Snapshot, count: int) -> None:
        """Let a daemon in memory, whose settings never change, learn from the same records."""
        sections = {name: section for name, section in self.daemon.base.items() if name not in {"kafka", "checkpoint"}}
        sections = {"guard": {"mode": "guarded"}} | sections  # as it is where nothing is said; `config` says otherwise
        world, said = Memory(config(**sections)), self.reader.said(count)
        with one_thread():
            world.send(self.load.value(number) for number in range(count))
            world.run_dry()
        again = dict(answered(record.value or b"") for record in world.log.records("answers"))
        memory = world.daemon.learner.adapter.dump()
        self.report.compared = count
        self.report.same_answers = sum(said[number] == again[number] for number in range(count))
        self.report.same_state = state.memory.keys() == memory.keys() and all(
            torch.equal(tensor, memory[name]) for name, tensor in state.memory.items()
        )


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute as the daemon does."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
