"""Very many small records through one daemon: what does it hold after all of them that it did not hold before?

The topics are kept short meanwhile, as retention keeps them, so that the broker is not what is measured.

The answers are counted as they come. The embedded broker (noida-db 0.2.3) has who reads on after an aborted transaction
skip what its producer commits later; so a trial in which one is aborted stands still, and proves nothing.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition

from trials.feed import Feed, Item
from trials.members import ANSWERS, BURIED, TOPICS, Member, end
from trials.oracle import Onlooker
from trials.vitals import Vitals
from tta_daemon.offline import malformed
from tta_daemon.offline.broker import Broker
from tta_daemon.offline.malformed import Value

SIDE, PICTURES = 8, 64
AHEAD = 4000
TIDY_S = 10.0
SILENCE_S = 120.0
SETTINGS = {
    "kafka": {"session_timeout_s": 45.0, "max_poll_interval_s": 300.0},
    "model": {"input_size": [SIDE, SIDE]},
    "batch": {"size": 256},
    "limits": {"waiting_images": 1024},
    "settle": {"every_s": 1.0},
    "watch": {"sample": 0.05},
    "checkpoint": {"every_s": 10.0},
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How many records, and what the daemon does with them."""

    delivery: str = "exactly_once"
    records: int = 200_000
    method: str = "norm"
    malformed_every: int = 1000


@dataclass(slots=True)
class Report:
    """How often each record came out, and what the daemon held meanwhile."""

    counts: np.ndarray
    vitals: Vitals
    complaints: list[str]
    worked_s: tuple[float, float]


class Tally:
    """Reads answers and dead letters as they come, counts ids, and has the broker forget what it has counted."""

    def __init__(self, bootstrap: str, records: int) -> None:
        self.counts = np.zeros(records, np.uint8)
        self._admin = KafkaAdminClient(bootstrap_servers=bootstrap)
        self._consumer = KafkaConsumer(
            bootstrap_servers=bootstrap,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
        self._places = [TopicPartition(topic, n) for topic in (ANSWERS, BURIED) for n in range(TOPICS[topic])]
        self._consumer.assign(self._places)
        self._consumer.seek_to_beginning(*self._places)
        self._tidied_at = time.monotonic()

    def count(self) -> None:
        """Count what has come."""
        for place, found in self._consumer.poll(500).items():
            for record in found:
                name = json.loads(record.value)["id"] if place.topic == ANSWERS else dict(record.headers)["id"].decode()
                self.counts[int(name)] += 1

    def tidy(self, committed: dict[TopicPartition, int]) -> None:
        """Forget what was counted, and the images before what the group has committed."""
        if time.monotonic() - self._tidied_at < TIDY_S:
            return
        self._tidied_at = time.monotonic()
        upto = {place: self._consumer.position(place) for place in self._places} | committed
        self._admin.delete_records({place: at for place, at in upto.items() if at > 0})

    def close(self) -> None:
        """Let go of the clients."""
        self._consumer.close()
        self._admin.close()


def run(plan: Plan, folder: Path, tell: Callable[[int], None] = lambda _: None) -> Report:
    """Send everything, count everything, and look at the daemon once a second."""
    with Broker(folder / "broker") as broker:
        broker.create_topics(TOPICS)
        onlooker, tally = Onlooker(broker.bootstrap), Tally(broker.bootstrap, plan.records)
        member = Member(broker, folder, "replica-0", plan.delivery, {**SETTINGS, "adapt": {"method": plan.method}})
        feed = Feed(broker.bootstrap, items(plan), lambda: int(np.count_nonzero(tally.counts)) + AHEAD)
        pid = lambda: member.service and member.service.pid  # noqa: E731 - one question
        try:
            with feed, Vitals(pid) as vitals:
                member.start()
                began = _work(plan, member, onlooker, tally, vitals, tell)
                worked_s = began, vitals.now()
            member.stop()
            tally.count()
        finally:
            end([member])
            tally.close()
            onlooker.close()
    complaints = member.complaints + ([f"the feed broke: {feed.error!r}"] if feed.error else [])
    return Report(tally.counts, vitals, complaints, worked_s)


def items(plan: Plan) -> Iterator[Item]:
    """Tiny pictures, and now and then a record that is none."""
    chance = np.random.default_rng(0)
    images = chance.integers(0, 256, (PICTURES, SIDE, SIDE, 3), dtype=np.uint8)
    good = [Value(malformed.png(image), malformed.PNG) for image in images]
    for number in range(plan.records):
        bad = number % plan.malformed_every == plan.malformed_every - 1
        yield Item(f"{number:07d}", Value(b"no picture", malformed.PNG) if bad else good[number % PICTURES])


def _work(
    plan: Plan, member: Member, onlooker: Onlooker, tally: Tally, vitals: Vitals, tell: Callable[[int], None]
) -> float:
    """Turn until every record has come out and is settled; returns when the first had."""
    began, moved_at, before = 0.0, time.monotonic(), -1
    while True:
        member.mind()
        tally.count()
        out = int(np.count_nonzero(tally.counts))
        tally.tidy(onlooker.offsets())
        tell(out)
        began = began or (vitals.now() if out else 0.0)
        if out != before:
            before, moved_at = out, time.monotonic()
        if out == plan.records and onlooker.settled() >= plan.records:
            return began
        if time.monotonic() - moved_at > SILENCE_S:
            missing = np.flatnonzero(tally.counts == 0)
            raise TimeoutError(
                f"nothing came out for {SILENCE_S:g} s, after {out} of {plan.records} records; "
                f"{member.service and member.service.metrics().get('tta_records_answered_total')} answered; missing: "
                f"{missing[0]} to {missing[-1]}, such as {missing[:: len(missing) // 40 + 1].tolist()}"
            )
