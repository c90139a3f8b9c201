"""The records of a trial, numbered, and the producer that sends them whether the broker is there or not."""

from collections.abc import Callable, Iterator
from threading import Event, Thread
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from kafka import KafkaProducer
from kafka.errors import KafkaError

from trials.members import IMAGES, PARTITIONS
from tta_daemon.offline import malformed
from tta_daemon.offline.malformed import Value

PICTURES, SIDE = 64, 32
UNDER_WAY = 2000
"""Records that the producer has handed over and not yet asked after."""

PATIENCE_S = 3600.0


class Item(NamedTuple):
    """One record: its number as its id, and the reason its dead letter must give, empty where it must be answered."""

    id: str
    value: Value
    reason: str = ""


def items(records: int, malformed_share: float = 0.01, seed: int = 0) -> Iterator[Item]:
    """The records in their order; the same for the same seed."""
    chance = np.random.default_rng(seed)
    shape = (PICTURES, SIDE, SIDE, 3)
    good = [Value(malformed.png(image), malformed.PNG) for image in chance.integers(0, 256, shape, dtype=np.uint8)]
    bad = [make() for name, make in malformed.KINDS.items() if name != "decompression bomb"]
    wrong = set(chance.choice(records, round(records * malformed_share), replace=False).tolist())
    for number in range(records):
        spoiled = bad[number % len(bad)]
        yield (
            Item(f"{number:07d}", spoiled.value, spoiled.reason)
            if number in wrong
            else Item(f"{number:07d}", good[number % PICTURES])
        )


class Feed:
    """Sends items on a thread of its own, never more of them than ``allowed`` says.

    What the broker did not take is sent again, as a careful producer does. Leaving the block stops it.
    """

    def __init__(self, bootstrap: str, plan: Iterator[Item], allowed: Callable[[], int]) -> None:
        self.sent = self.resent = 0
        self.error: Exception | None = None
        self._plan, self._allowed = plan, allowed
        self._bootstrap = bootstrap
        self._stopping = Event()
        self._thread = Thread(target=self._run, name="feed", daemon=True)

    @property
    def done(self) -> bool:
        """Whether everything lies in the topic."""
        return not self._thread.is_alive()

    def __enter__(self) -> Self:
        """Begin to send."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Send nothing more."""
        self._stopping.set()
        self._thread.join(30)

    def _run(self) -> None:
        try:
            producer = KafkaProducer(
                bootstrap_servers=self._bootstrap,
                delivery_timeout_ms=int(PATIENCE_S * 1000),
                max_block_ms=int(PATIENCE_S * 1000),
                linger_ms=10,
            )
            try:
                self._send_all(producer)
            finally:
                producer.close(timeout=5)
        except Exception as error:  # noqa: BLE001 - whatever it is, the trial reports it
            self.error = error

    def _send_all(self, producer: KafkaProducer) -> None:
        waiting = []
        for number, item in enumerate(self._plan):
            while self.sent >= self._allowed() and not self._stopping.is_set():
                self._stopping.wait(0.05)
            if self._stopping.is_set():
                return
            waiting.append((number, item, self._send(producer, number, item)))
            self.sent += 1
            if len(waiting) >= UNDER_WAY:
                waiting = self._arrived(producer, waiting)
        producer.flush()
        while waiting and not self._stopping.is_set():
            waiting = self._arrived(producer, waiting)

    def _arrived(self, producer: KafkaProducer, waiting: list) -> list:
        """Wait for what is under way; returns what had to be sent again."""
        again = []
        for number, item, sent in waiting:
            try:
                while not sent.is_done and not self._stopping.is_set():
                    self._stopping.wait(0.02)
                if sent.is_done:
                    sent.get(0)
            except KafkaError:
                self.resent += 1
                again.append((number, item, self._send(producer, number, item)))
        return again

    @staticmethod
    def _send(producer: KafkaProducer, number: int, item: Item):
        headers = [("id", item.id.encode()), ("content-type", item.value.content_type.encode())]
        content = item.value.content
        return producer.send(
            IMAGES, key=b"%d" % (number % 7), value=content, headers=headers, partition=number % PARTITIONS
        )
