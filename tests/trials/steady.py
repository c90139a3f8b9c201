"""A steady stream of images into a topic, and a reader of what becomes of each."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.consumer.fetcher import ConsumerRecord
from world import pictures

BATCH = 8
"""The stream ends with a whole number of batches of this size."""

PER_SECOND = 200.0
NONSENSE_EVERY = 50
DEADLINE_S = 120.0
HEADERS = [("content-type", b"application/x-npy")]


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for a condition; its value."""
    deadline = time.monotonic() + DEADLINE_S
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {DEADLINE_S:g} s: {what}")
        time.sleep(0.03)
    return value


class Load:
    """Sends records into one topic; the n-th is always the same picture, or nonsense where that is wanted."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self.sent, self.nonsense = 0, False
        self._topic, self._values = topic, pictures(160)
        self._producer = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=1)

    def value(self, number: int) -> bytes:
        """The picture of a record."""
        return self._values[number * 7 % len(self._values)]

    def send(self) -> None:
        """One more record."""
        bad = self.nonsense and self.sent % NONSENSE_EVERY == 0
        value = b"nonsense" if bad else self.value(self.sent)
        self._producer.send(self._topic, value, partition=0, headers=HEADERS)
        self.sent += 1

    def flush(self) -> None:
        """Wait until all that was sent has arrived."""
        self._producer.flush(DEADLINE_S)

    @contextmanager
    def steady(self) -> Iterator[None]:
        """Send from now until the block ends, whole batches only."""
        ended = threading.Event()
        thread = threading.Thread(target=self._run, args=(ended,), name="load", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(DEADLINE_S)
            self.flush()

    def close(self) -> None:
        """Send nothing more."""
        self._producer.close(timeout=10)

    def _run(self, ended: threading.Event) -> None:
        due = time.monotonic()
        while not ended.is_set() or self.sent % BATCH:
            self.send()
            due = max(due + 1 / PER_SECOND, time.monotonic() - 0.1)
            time.sleep(max(0.0, due - time.monotonic()))


@dataclass(frozen=True, slots=True)
class Heard:
    """One answer or dead letter: of which record, what it says, when it was written and when it could be read."""

    number: int
    says: str
    written_s: float
    seen_s: float


class Reader:
    """Reads answers and dead letters as they become final, from the first one on."""

    def __init__(self, bootstrap: str, answers: str, letters: str) -> None:
        self.heard: list[Heard] = []
        self._ended = threading.Event()
        self._consumer = KafkaConsumer(bootstrap_servers=bootstrap, isolation_level="read_committed")
        places = [TopicPartition(topic, 0) for topic in (answers, letters)]
        self._consumer.assign(places)
        self._consumer.seek_to_beginning(*places)
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)
        self._thread.start()

    def times(self) -> Counter[int]:
        """How often each record was answered or buried."""
        return Counter(one.number for one in list(self.heard))

    def said(self, most: int) -> dict[int, str]:
        """What became of the first records."""
        return {one.number: one.says for one in list(self.heard) if one.number < most}

    def gap_s(self, since: int, moment: str) -> float:
        """The longest time between two answers (`written_s` or `seen_s`), from the ``since``-th heard on."""
        moments = sorted({getattr(one, moment) for one in list(self.heard)[since:]})
        return max((later - sooner for sooner, later in pairwise(moments)), default=0.0)

    def close(self) -> None:
        """Stop reading."""
        self._ended.set()
        self._thread.join(DEADLINE_S)
        self._consumer.close()

    def _run(self) -> None:
        while not self._ended.is_set():
            for records in self._consumer.poll(timeout_ms=50).values():
                now = time.time()
                self.heard += [Heard(*_told(record), record.timestamp / 1000, now) for record in records]


def _told(record: ConsumerRecord) -> tuple[int, str]:
    """The number of the record that an answer or a dead letter is about, and what it says of it."""
    headers = dict(record.headers)
    if "tta.dlq.offset" in headers:
        return int(headers["tta.dlq.offset"]), headers["tta.dlq.reason"].decode()
    return answered(record.value)


def answered(value: bytes) -> tuple[int, str]:
    """The number of the record that an answer is to, and the answer."""
    answer = json.loads(value)
    return int(answer["id"].rpartition("-")[2]), json.dumps(answer["predictions"])
