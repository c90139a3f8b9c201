"""Replicas that die, come and restart while many cameras send: what each stream has learned must not show it."""

import io
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from kafka import KafkaProducer

from trials.members import ANSWERS, BURIED, GROUP, IMAGES, Member, dismiss, end
from trials.oracle import Onlooker, Verdict, judge
from tta_daemon.control.config import load as configuration
from tta_daemon.control.snapshot import decode
from tta_daemon.control.stream_changelog import StreamChangelog
from tta_daemon.learner import Learner
from tta_daemon.model.load import load
from tta_daemon.offline.broker import Broker
from tta_daemon.stream.kafka_reading import slices
from tta_daemon.stream.kafka_sink import KafkaSink
from tta_daemon.stream.records import Partition, Stream

SIZE, SIDE = 16, 28
SILENCE_S = 240.0
RESTART_S = 60.0
"""What a static member has to come back before its partitions move."""

CALM_S = 8.0
"""More than it takes a member to notice that the group has something new in mind."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything."""

    cameras: int = 36
    records: int = 720
    partitions: int = 12
    seed: int = 0

    @property
    def sections(self) -> dict[str, dict[str, object]]:
        """What the replicas are told beside what all trials tell theirs."""
        return {
            "streams": {"by": "key", "max_resident": max(1, self.cameras // 6)},
            "batch": {"size": SIZE, "patience_s": 600.0},
            "adapt": {"method": "tent", "learn_from": SIZE},
            "checkpoint": {"every_s": 0.5},
            "limits": {"waiting_images": 64 * SIZE},
            "kafka": {"session_timeout_s": RESTART_S, "max_poll_interval_s": RESTART_S},
        }


@dataclass(slots=True)
class Outcome:
    """What a trial found."""

    verdict: Verdict
    streams: int
    differ: list[str]
    moved: dict[str, int] = field(default_factory=dict)
    """How often replicas that stayed were told of moved partitions, by what happened meanwhile."""


class Replicas:
    """Three replicas; one is killed for good, two come, then each is restarted in turn."""

    def __init__(self, plan: Plan, folder: Path, tell: Callable[[str], None] = lambda _: None) -> None:
        self.plan, self.folder, self.tell = plan, folder, tell
        self.broker = Broker(folder / "broker")
        self.onlooker = Onlooker(self.broker.bootstrap)
        self.members: list[Member] = []
        self.moved: dict[str, int] = {}

    def run(self) -> Outcome:
        """Do all that, then judge answers and states."""
        plan, bootstrap = self.plan, self.broker.bootstrap
        with self.broker:
            self.broker.create_topics({IMAGES: plan.partitions, ANSWERS: 4, BURIED: 1})
            try:
                self._live()
            finally:
                for member in self.members:
                    member.stop()
                end(self.members)
            self.tell("judging")
            verdict = judge(bootstrap, {f"{n:07d}": "" for n in range(plan.records)})
            kept = self._kept()
            self.onlooker.close()
        for member in self.members:
            verdict.complaints += member.complaints
        return Outcome(verdict, len(kept), self._differ(kept), self.moved)

    def _live(self) -> None:
        sixth = self.plan.records // 6
        for number in range(3):
            self._join(number)
        self._shared_out("three replicas")
        self._feed(0, 2 * sixth)
        self._until(sixth)
        dead = self.members.pop(0)
        self.tell(f"SIGKILL to {dead.name}, for good")
        dead.kill()
        dismiss(self.broker.bootstrap, dead.name)
        self._until(2 * sixth)
        for number in (3, 4):
            self._join(number)
        self._shared_out("two more")
        self._feed(2 * sixth, 3 * sixth)
        self._until(2 * sixth + sixth // 2)
        self._restart(3 * sixth)
        self._until(self.plan.records)

    def _restart(self, fed: int) -> None:
        """One after the other, as a rolling restart does, while records come; static members keep their partitions."""
        some = (self.plan.records - fed) // (2 * len(self.members))
        for member in list(self.members):
            others = [other for other in self.members if other is not member]
            before = sum(map(_moves, others))
            self._feed(fed, fed + some)
            self.tell(f"{member.name} restarts, with {member.held} partitions")
            member.stop()
            member.start()
            self._feed(fed + some, fed + 2 * some)
            fed += 2 * some
            self._shared_out(f"{member.name} is back")
            self.moved[member.name] = sum(map(_moves, others)) - before
        self._feed(fed, self.plan.records)

    def _join(self, number: int) -> None:
        member = Member(self.broker, self.folder, f"replica-{number}", "exactly_once", self.plan.sections)
        self.tell(f"{member.name} joins")
        member.start()
        self.members.append(member)

    def _shared_out(self, words: str) -> None:
        """Wait until everybody has had something for a while, as far as they know: the group has come to rest."""
        shared_at = 0.0

        def calm() -> bool:
            nonlocal shared_at
            held = [member.held for member in self.members]
            if sum(held) != self.plan.partitions or not all(held):
                shared_at = 0.0
            elif not shared_at:
                shared_at = time.monotonic()
            return bool(shared_at) and time.monotonic() - shared_at > CALM_S

        self._wait(calm, words)

    def _until(self, settled: int) -> None:
        self._wait(lambda: self.onlooker.settled() >= settled, f"{settled} records settled")

    def _wait(self, condition: Callable[[], bool], words: str) -> None:
        until = time.monotonic() + SILENCE_S
        while not condition():
            for member in self.members:
                member.mind()
            if time.monotonic() > until:
                raise TimeoutError(f"not within {SILENCE_S:g} s: {words}, settled {self.onlooker.settled()}")
            time.sleep(0.2)
        self.tell(words)

    def _feed(self, first: int, last: int) -> None:
        producer = KafkaProducer(bootstrap_servers=self.broker.bootstrap)
        for n, stream, pixels in records(self.plan, first, last):
            written = io.BytesIO()
            np.save(written, pixels)
            headers = [("id", b"%07d" % n), ("content-type", b"application/x-npy")]
            home = stream.place.number
            producer.send(IMAGES, written.getvalue(), stream.name.encode(), headers, partition=home)
        producer.flush()
        producer.close()

    def _kept(self) -> dict[Stream, object]:
        sink, topic = KafkaSink({"bootstrap_servers": self.broker.bootstrap}), f"{GROUP}-state"
        client = {"bootstrap_servers": self.broker.bootstrap}
        states = StreamChangelog(sink, topic, self.plan.partitions, lambda n: slices(client, topic, n))
        kept = {}
        for number in range(self.plan.partitions):
            for some in states.restore(place := Partition(IMAGES, number)):
                kept |= {Stream(one.name, place): decode(one.blob) for one in some if one.name is not None}
        sink.close()
        return kept

    def _differ(self, kept: dict[Stream, object]) -> list[str]:
        """The streams that have not learned, bit for bit, what they learn in one process that nothing happens to."""
        config = configuration(self.members[0].config, {})
        deployed, learners, counts = load(config.model), {}, Counter()
        torch.set_num_threads(1)
        for _, stream, pixels in records(self.plan, 0, self.plan.records):
            if stream not in learners:
                learners[stream] = Learner(deployed, config.adapt, config.watch.sample, config.guard)
            images = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).astype(np.float32) / np.float32(255)
            learners[stream].answer(torch.from_numpy(images)).learn()
            counts[stream] += 1
        wrong = [f"{stream} is not saved" for stream in learners.keys() - kept.keys()]
        for stream in learners.keys() & kept.keys():
            wanted, found = learners[stream].adapter.dump(), kept[stream]
            if found.batches != counts[stream] or any(not torch.equal(found.memory[n], t) for n, t in wanted.items()):
                wrong.append(f"{stream}: {found.batches} batches of {counts[stream]}")
        return wrong


def records(plan: Plan, first: int, last: int) -> Iterator[tuple[int, Stream, np.ndarray]]:
    """Number, stream and images of each record; each is a batch of its own, so that nobody's timing shapes batches."""
    for n in range(first, last):
        chance = np.random.default_rng([plan.seed, n])
        camera = int(np.random.default_rng([plan.seed, n, 1]).integers(plan.cameras))
        bright = 40 + 5 * camera
        pixels = np.clip(chance.normal(bright, 30 + camera, (SIZE, SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
        yield n, Stream(f"cam-{camera}", Partition(IMAGES, camera % plan.partitions)), pixels


def _moves(member: Member) -> int:
    return sum(log.read_text(errors="replace").count("partitions moved") for log in member.logs)
