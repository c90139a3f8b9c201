"""The labels topic: every replica reads all of it, from a while ago on."""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from tta_daemon.errors import BrokerUnreachable
from tta_daemon.stream.kafka_client import GRACE_S, Caller, QuietLogs, abandon, named, opened, record_of
from tta_daemon.stream.records import Partition, Record

log = logging.getLogger(__name__)
log.addFilter(QuietLogs())


class KafkaTail:
    """Reads all partitions of a topic without a group; implements `Tail`.

    It is not worth the daemon's life: trouble is logged and waited out, and a new client goes on where the last one
    was. Partitions that are added later are found within `look_every_s`.
    """

    def __init__(  # noqa: PLR0913 - one argument for each thing that differs between deployments
        self,
        client: Mapping[str, Any],
        topic: str,
        *,
        since_s: float,
        connect_timeout_s: float = 15.0,
        look_every_s: float = 60.0,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.client, self.topic, self.since_s = client, topic, since_s
        self.connect_timeout_s, self.look_every_s = connect_timeout_s, look_every_s
        self._settings = {
            "enable_auto_commit": False,
            "isolation_level": "read_committed",
            "auto_offset_reset": "earliest",
            "request_timeout_ms": 15_000,
            "metadata_max_age_ms": int(look_every_s * 1000),
            **(settings or {}),
        }
        self._next: dict[Partition, int] = {}
        self._look_at, self._retry_at, self._backoff_s = 0.0, 0.0, 0.5
        self._consumer: Any = None
        self._open()

    def poll(self, timeout_s: float, most: int) -> Sequence[Record]:
        """See `Tail`."""
        try:
            if self._consumer is None:
                self._reopen()
            if self._consumer is None:
                return []
            if time.monotonic() >= self._look_at:
                self._look()
            if not self._next:
                return []
            found = self._caller.within(
                timeout_s + 2 * GRACE_S, lambda: self._consumer.poll(timeout_ms=timeout_s * 1000, max_records=most)
            )
        except (KafkaError, TimeoutError, OSError, RuntimeError) as error:
            log.warning("the topic %s cannot be read at the moment: %s", self.topic, named(error))
            self._drop()
            return []
        records = [record_of(record) for records in found.values() for record in records]
        for record in records:
            self._next[record.position.partition] = record.position.offset + 1
        return records

    def close(self) -> None:
        """See `Tail`."""
        self._drop()

    def _look(self) -> None:
        """Find the topic's partitions, and where to begin in those that are new."""
        numbers = self._caller.within(3 * GRACE_S, lambda: self._consumer.partitions_for_topic(self.topic)) or ()
        found = {Partition(self.topic, number) for number in numbers}
        new = [TopicPartition(*partition) for partition in sorted(found - set(self._next))]
        if new:
            since = dict.fromkeys(new, int(self.since_s * 1000))
            begin = self._caller.within(3 * GRACE_S, lambda: self._consumer.offsets_for_times(since, timeout_ms=10_000))
            end = self._caller.within(3 * GRACE_S, lambda: self._consumer.end_offsets(new, timeout_ms=10_000))
            for place in new:
                self._next[Partition(*place)] = begin[place].offset if begin.get(place) else end[place]
        if {Partition(*place) for place in self._consumer.assignment() or ()} != set(self._next):
            self._consumer.assign([TopicPartition(*partition) for partition in self._next])
            for partition, offset in self._next.items():
                self._consumer.seek(TopicPartition(*partition), offset)
        self._look_at = time.monotonic() + (self.look_every_s if self._next else 1.0)

    def _open(self) -> None:
        caller = Caller(f"kafka-tail-{self.topic}")
        try:
            self._consumer = opened(KafkaConsumer, caller, self.client, self.connect_timeout_s, **self._settings)
        except BrokerUnreachable:
            caller.close()
            raise
        self._caller, self._look_at, self._backoff_s = caller, 0.0, 0.5

    def _reopen(self) -> None:
        if time.monotonic() < self._retry_at:
            return
        try:
            self._open()
        except BrokerUnreachable as error:
            self._backoff_s = min(30.0, 2 * self._backoff_s)
            self._retry_at = time.monotonic() + self._backoff_s
            log.warning("%s", error)

    def _drop(self) -> None:
        if self._consumer is not None:
            abandon(self._consumer._client)  # noqa: SLF001 - there is no group to leave
            self._caller.close()
        self._consumer = None
