"""A topic in memory whose records come when the plan says, on a clock that only waiting moves."""

from collections.abc import Sequence
from dataclasses import replace

from tta_daemon.offline.replay.orders import Plan
from tta_daemon.offline.replay.streams import Stream
from tta_daemon.stream.memory_log import MemoryLog, MemorySource
from tta_daemon.stream.records import Record

NEVER_OLD_S = 253_402_300_799.0
"""The year 9999: records whose clock stands still are not late, so that adapt.max_lag_s holds nothing back."""


class Clock:
    """Seconds that pass only while the daemon waits for records: what is full goes out full, however slow we are."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now_s


class Reel(MemorySource):
    """The only member of a group, on a topic that is written just ahead of it and forgotten just behind it.

    Step n of the plan is offset n, and ``id`` n.
    """

    def __init__(self, log: MemoryLog, topic: str, group: str, stream: Stream, plan: Plan, clock: Clock) -> None:  # noqa: PLR0913, PLR0917 - where, what, and when
        super().__init__(log, [topic], group)
        self._records = log.partitions[log.of(topic)[0]]
        self._topic, self._stream, self._plan, self._clock = topic, stream, plan, clock

    @property
    def over(self) -> bool:
        """Whether everything was sent."""
        return len(self._records) == len(self._plan)

    def poll(self, timeout_s: float, most: int) -> Sequence[Record]:
        """See `Source`; waiting moves the clock, and nothing else does."""
        if not self._send(most):
            self._clock.now_s = min(self._clock.now_s + timeout_s, self._next_s())
            self._send(most)
        records = super().poll(timeout_s, most)
        for record in records:
            self._records[record.position.offset] = replace(record, value=None)
        return records

    def _send(self, most: int) -> int:
        """Write what has arrived by now; how many records that were."""
        first = step = len(self._records)
        while step < min(first + most, len(self._plan)) and self._plan.arrivals[step] <= self._clock.now_s:
            image = int(self._plan.images[step])
            kind, data = self._stream.values[image]
            key = self._stream.keys[image].encode() if self._stream.keys else None
            headers = (("content-type", kind.encode()), ("id", str(step).encode()))
            self.log.append(self._topic, data, key=key, headers=headers, partition=0, timestamp_s=NEVER_OLD_S)
            step += 1
        return step - first

    def _next_s(self) -> float:
        return float("inf") if self.over else float(self._plan.arrivals[len(self._records)])
