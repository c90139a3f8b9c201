"""The outside world of the demo: cameras that send photos at a steady pace, and people who label them a while later."""

import json
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from threading import Event, Thread
from types import TracebackType
from typing import Self

from kafka import KafkaProducer

from tta_daemon.offline.traffic import Junk, Photo

LABEL_DELAY_S = (1.0, 2.0)
MOST_AHEAD = 2000
"""Records that the cameras may be ahead of the answers: on a slow machine they wait, so that the demo stays live."""


class Cameras:
    """Sends the planned records, and each photo's label between one and two seconds after it.

    Args:
        bootstrap: the broker's address.
        plan: the records, in order.
        per_second: the pace.
        came_out: tells how many records have been answered or dead-lettered so far.
    """

    def __init__(
        self, bootstrap: str, plan: Sequence[Photo | Junk], per_second: float, came_out: Callable[[], int]
    ) -> None:
        self._thread = Thread(target=self._run, name="cameras", daemon=True)
        self._bootstrap = bootstrap
        self._plan = plan
        self._per_second = per_second
        self._came_out = came_out
        self._labels: deque[tuple[float, Photo]] = deque()
        self._stopping = Event()
        self._chance = random.Random(0)  # noqa: S311 - delays, not secrets
        self.sent = 0
        self.labeled = 0
        self.error: Exception | None = None

    def __enter__(self) -> Self:
        """Begin to send."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Send nothing more."""
        self._stopping.set()
        self._thread.join(timeout=10)

    @property
    def done(self) -> bool:
        """Whether everything has been sent, labels included."""
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            producer = KafkaProducer(bootstrap_servers=self._bootstrap, client_id="demo-cameras", linger_ms=10)
            try:
                self._send_all(producer)
                producer.flush(timeout=30)
            finally:
                producer.close(timeout=5)
        except Exception as error:  # noqa: BLE001 - whatever it is, the demo reports it
            self.error = error

    def _send_all(self, producer: KafkaProducer) -> None:
        due = time.monotonic()
        for item in self._plan:
            while not self._stopping.is_set() and self.sent - self._came_out() > MOST_AHEAD:
                due = time.monotonic() + 0.1
                self._wait_until(due, producer)
            self._wait_until(due, producer)
            if self._stopping.is_set():
                return
            self._send(producer, item)
            due = max(due + 1 / self._per_second, time.monotonic() - 1.0)  # never more than a second to catch up
        while self._labels and not self._stopping.is_set():
            self._wait_until(self._labels[0][0], producer)

    def _send(self, producer: KafkaProducer, item: Photo | Junk) -> None:
        """Send one image as one record: who took it as the key, what it is and which one it is in the headers."""
        content, content_type = item.value()
        headers = [("id", item.id.encode()), ("content-type", content_type.encode())]
        producer.send("images", key=item.camera.encode(), value=content, headers=headers)
        self.sent += 1
        if isinstance(item, Photo):
            self._labels.append((time.monotonic() + self._chance.uniform(*LABEL_DELAY_S), item))

    def _wait_until(self, due: float, producer: KafkaProducer) -> None:
        """Wait, and send the labels that are ready by then. A label that is ready early waits for those before it."""
        while self._labels and self._labels[0][0] <= due:
            ready, photo = self._labels.popleft()
            self._stopping.wait(max(0.0, ready - time.monotonic()))
            value = json.dumps({"id": photo.id, "labels": [photo.label]}).encode()
            producer.send("labels", value=value, headers=[("id", photo.id.encode())])
            self.labeled += 1
        self._stopping.wait(max(0.0, due - time.monotonic()))
