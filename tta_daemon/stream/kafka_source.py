"""Records from Kafka: a consumer that commits only what it is told, and outlives broker trouble."""

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from kafka import KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.errors import (
    AuthorizationError,
    CommitFailedError,
    CorruptRecordError,
    FencedInstanceIdError,
    IllegalGenerationError,
    KafkaError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)

from tta_daemon.errors import BrokerUnreachable, Fenced, TtaError
from tta_daemon.stream.kafka_client import GRACE_S, Caller, QuietLogs, abandon, named, opened, record_of
from tta_daemon.stream.membership import Membership
from tta_daemon.stream.records import Partition, Position, Record
from tta_daemon.stream.source import Changes

T = TypeVar("T")

MOVED_ON = (CommitFailedError, IllegalGenerationError, RebalanceInProgressError, UnknownMemberIdError)
"""The group's ways of saying that our partitions are not ours any more."""

log = logging.getLogger(__name__)
log.addFilter(QuietLogs())


class KafkaSource:
    """A consumer that never commits by itself, and renews its client when that is stuck; implements `Source`.

    Args:
        client: connection settings as kafka-python calls them, the same for all clients.
        topics: what to read.
        group: the consumer group.
        instance: the static member's name (KIP-345), or None.
        start: where to begin if the group has committed nothing, "earliest" or "latest".
        connect_timeout_s: how long to wait for the first broker.
        call_timeout_s: how long a commit or a look-up may take.
        stuck_after_s: how long records may wait without any coming before the client is renewed.
        renewed: called when that happens.
        settings: anything else that kafka-python's consumer takes.
    """

    def __init__(  # noqa: PLR0913 - one argument for each thing that differs between deployments
        self,
        client: Mapping[str, Any],
        topics: Sequence[str],
        group: str,
        *,
        instance: str | None = None,
        start: str = "earliest",
        connect_timeout_s: float = 15.0,
        call_timeout_s: float = 10.0,
        stuck_after_s: float = 60.0,
        renewed: Callable[[], None] = lambda: None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.client, self.topics, self.group = client, tuple(topics), group
        self.connect_timeout_s, self.call_timeout_s, self.stuck_after_s = (
            connect_timeout_s,
            call_timeout_s,
            stuck_after_s,
        )
        self._renewed, self._start = renewed, start
        self.membership = Membership()
        self._settings = {
            "group_id": group,
            "group_instance_id": instance,
            "auto_offset_reset": "earliest",  # where `_rewound` says nothing else: of what is left, all
            "enable_auto_commit": False,
            "isolation_level": "read_committed",
            "request_timeout_ms": 15_000,
            **(settings or {}),
        }
        self._began: dict[Partition, int] = {}
        self._rewinding: set[Partition] = set()
        self._paused: set[Partition] = set()
        self._moved_at = self._polled_at = time.monotonic()
        self._doubted: set[Position] = set()
        self._unreadable: list[Record] = []
        self._retry_at, self._backoff_s = 0.0, 0.5
        self._consumer: Any = None
        self._open()

    def poll(self, timeout_s: float, most: int) -> Sequence[Record]:
        """See `Source`. Broker trouble is waited out: then nothing comes."""
        if self.membership.unseen:
            return []
        self._moved_at += time.monotonic() - self._polled_at  # nothing can move while nobody polls
        try:
            return self._polled(timeout_s, most)
        finally:
            self._polled_at = time.monotonic()

    def _polled(self, timeout_s: float, most: int) -> Sequence[Record]:
        if self._consumer is None or self.stuck(time.monotonic()):
            self.renew()
        if self._consumer is None or not self._rewound():
            time.sleep(min(timeout_s, 0.1))
            return []
        found = self._try(lambda: self._consumer.poll(timeout_ms=timeout_s * 1000, max_records=most), timeout_s) or {}
        read = [record_of(record) for records in found.values() for record in records] + self._unreadable
        records = [record for record in read if record.position.partition not in self._rewinding]
        self._unreadable = []
        if self.membership.unseen_loss:  # these belong to the next generation: first let go of the last one
            self._unread(records)
            return []
        self._note(records)
        return records

    def commit(self, offsets: Mapping[Partition, int]) -> bool:
        """See `Source`."""
        ours = {partition: offset for partition, offset in offsets.items() if partition in self.assignment()}
        if not ours or self._consumer is None:
            return not offsets
        wanted = _offsets(ours)
        try:
            self._call(lambda: self._consumer.commit(wanted, timeout_ms=self.call_timeout_s * 1000))
        except MOVED_ON as error:
            log.info("commit refused, the group has moved on; the records come again: %s", named(error))
            return False
        except AuthorizationError as error:
            raise TtaError(f"the broker refuses: {named(error)}") from error
        except (KafkaError, TimeoutError) as error:
            log.warning("commit failed; the next one covers it: %s", named(error))
            return False
        return True

    def seek(self, partition: Partition, offset: int) -> None:
        """See `Source`."""
        self._rewinding.discard(partition)
        if partition in self.assignment():
            self._consumer.seek(TopicPartition(*partition), offset)

    def rewind(self, partitions: Collection[Partition]) -> None:
        """See `Source`. Takes effect at the next poll that reaches a broker."""
        self._rewinding |= set(partitions)

    def pause(self, partitions: Collection[Partition]) -> None:
        """See `Source`."""
        ours = self.assignment() & set(partitions)
        self._paused |= ours
        if ours:
            self._consumer.pause(*(TopicPartition(*partition) for partition in ours))

    def resume(self, partitions: Collection[Partition]) -> None:
        """See `Source`."""
        self._moved_at = time.monotonic()
        self._paused -= set(partitions)
        if ours := self.assignment() & set(partitions):
            self._consumer.resume(*(TopicPartition(*partition) for partition in ours))

    def assignment(self) -> frozenset[Partition]:
        """See `Source`."""
        return self.membership.owned if self._consumer is not None else frozenset()

    def committed(self, partitions: Collection[Partition]) -> Mapping[Partition, int]:
        """See `Source`; BrokerUnreachable if the group's coordinator does not answer."""
        if self._consumer is None:
            raise BrokerUnreachable("kafka.bootstrap_servers: no connection at the moment")
        known: dict[Partition, int] = {}
        for partition in partitions:
            try:
                offset = self._call(
                    lambda p=partition: self._consumer.committed(  # type: ignore[misc]
                        TopicPartition(*p), timeout_ms=self.call_timeout_s * 1000
                    )
                )
            except (KafkaError, TimeoutError) as error:
                raise BrokerUnreachable(f"the group's offsets cannot be read: {named(error)}") from error
            if offset is not None:
                known[partition] = offset
        return known

    def oldest(self, partition: Partition) -> int:
        """See `Source`; BrokerUnreachable if no broker answers."""
        place = TopicPartition(*partition)
        if self._consumer is None:
            raise BrokerUnreachable("kafka.bootstrap_servers: no connection at the moment")
        try:
            found = self._call(lambda: self._consumer.beginning_offsets([place], timeout_ms=self.call_timeout_s * 1000))
        except (KafkaError, TimeoutError) as error:
            raise BrokerUnreachable(f"the beginning of {partition} cannot be read: {named(error)}") from error
        return int(found[place])

    def changes(self) -> Changes:
        """See `Source`."""
        changes = Changes(*self.membership.take())
        gone = changes.revoked | changes.lost
        self._began = {partition: at for partition, at in self._began.items() if partition not in gone}
        self._rewinding -= gone
        self._paused -= gone
        return changes

    def lag(self) -> Mapping[Partition, int]:
        """See `Source`."""
        states = self._consumer._subscription.assignment if self._consumer is not None else {}  # noqa: SLF001
        lag = {}
        for partition, state in list(states.items()):
            if state.position is not None and state.highwater is not None:
                lag[Partition(*partition)] = max(0, state.highwater - state.position.offset)
        return lag

    def stuck(self, now: float) -> bool:
        """Whether records have waited for a long time (on partitions that are not paused) and none came.

        Asks the broker where the log ends: a client that fetches nothing does not know that it is behind.
        """
        if self._consumer is None or now - self._moved_at < self.stuck_after_s:
            return False
        self._moved_at = now
        watched = [TopicPartition(*partition) for partition in self.assignment() - self._paused]
        try:
            ends = self._call(lambda: self._consumer.end_offsets(watched, timeout_ms=self.call_timeout_s * 1000))
        except (KafkaError, TimeoutError):  # the broker is away: that is not the client's fault
            return False
        states = self._consumer._subscription.assignment  # noqa: SLF001
        return any(
            (state := states.get(place)) is not None and (state.position is None or state.position.offset < end)
            for place, end in ends.items()
        )

    def renew(self) -> None:
        """Replace the client, as often as the backoff allows; what was ours is reported as lost."""
        now = time.monotonic()
        if self._consumer is not None:
            log.warning("the Kafka consumer makes no progress and is replaced")
            self._renewed()
            self._drop()
        if now < self._retry_at:
            return
        try:
            self._open()
        except BrokerUnreachable as error:
            self._backoff_s = min(30.0, self._backoff_s * 2)
            self._retry_at = time.monotonic() + self._backoff_s
            log.warning("%s; next try in %g s", error, self._backoff_s)

    def group_metadata(self) -> Any:  # noqa: ANN401
        """Who we are in the group, for a transaction to be tied to (KIP-447)."""
        return self._consumer.group_metadata() if self._consumer is not None else None

    def close(self) -> None:
        """See `Source`; takes a few seconds at most."""
        if self._consumer is not None:
            self._drop()

    def _open(self) -> None:
        caller = Caller(f"kafka-source-{self.group}")
        try:
            consumer = opened(
                KafkaConsumer,
                caller,
                self.client,
                self.connect_timeout_s,
                partition_assignment_strategy=(RangePartitionAssignor(),),  # one instance each: it has state
                **self._settings,
            )
        except BrokerUnreachable:
            caller.close()
            raise
        consumer.subscribe(topics=self.topics, listener=self.membership)
        self.membership.watch(consumer._coordinator)  # noqa: SLF001 - there is no public way to be asked first
        self._caller, self._consumer = caller, consumer
        self._know_topics()
        self._moved_at, self._backoff_s = time.monotonic(), 0.5

    def _know_topics(self) -> None:
        """Know the topics' partitions before the first join: a leader that hears of them later has all join again."""
        with contextlib.suppress(KafkaError, TimeoutError):
            self._call(self._consumer.topics)

    def _drop(self) -> None:
        """Let go of the client: politely, so that the group need not wait for us, or else by force."""
        consumer, self._consumer = self._consumer, None
        try:
            self._caller.within(GRACE_S, lambda: consumer.close(timeout_ms=GRACE_S * 500))
        except (KafkaError, TimeoutError):
            abandon(consumer._client)  # noqa: SLF001
        self._caller.close()
        self.membership.lose_all()

    def _call(self, call: Callable[[], T]) -> T:
        return self._caller.within(self.call_timeout_s + GRACE_S, call)

    def _try(self, call: Callable[[], T], timeout_s: float) -> T | None:
        """The call's result, or None in broker trouble; errors that time does not heal are raised."""
        try:
            return self._caller.within(timeout_s + GRACE_S + self.call_timeout_s, call)
        except FencedInstanceIdError as error:
            raise Fenced(f"another member runs as kafka.group_instance_id: {named(error)}") from error
        except AuthorizationError as error:
            raise TtaError(f"the broker refuses: {named(error)}") from error
        except CorruptRecordError as error:
            self._step_over(error)
        except KafkaError as error:
            log.warning("reading failed, trying again: %s", named(error))
            time.sleep(min(timeout_s, 0.1))
        except Exception as error:  # noqa: BLE001 - a client that breaks or hangs is replaced
            log.warning("the Kafka consumer is broken: %s", named(error))
            self._drop()
        return None

    def _step_over(self, error: CorruptRecordError) -> None:
        """Read again what could not be read; if it still cannot, hand on that it is there, and read on behind it.

        kafka-python's own way is to come back to it for ever.
        """
        part = self._consumer._fetcher._next_partition_records  # noqa: SLF001
        if not part:
            log.warning("the Kafka consumer is broken: %s", named(error))
            self._renewed()
            return self._drop()
        place, offset = part.topic_partition, part.next_fetch_offset
        position = Position(Partition(*place), offset)
        log.warning("%s-%d: offset %d cannot be read: %s", *place, offset, named(error))
        part.drain()
        if position not in self._doubted:
            self._doubted = {known for known in self._doubted if known.partition != position.partition} | {position}
            return None
        self._doubted.remove(position)
        self._consumer.seek(place, offset + 1)
        self._unreadable.append(Record(position, None, None, timestamp_s=time.time(), fault=str(error)))
        return None

    def _rewound(self) -> bool:
        """Go back where that was asked for; False while no broker says where that is.

        A partition of which nobody knows where it ends waits by itself; what is read of it meanwhile does not count.
        """
        wanted = self._rewinding & self.assignment()
        if wanted:
            try:
                known = self.committed(wanted)
            except BrokerUnreachable as error:
                log.warning("%s", error)
                return False
            for partition in wanted:
                if (offset := known.get(partition, self._began.get(partition))) is not None:
                    self.seek(partition, offset)
                elif self._start == "latest" and not self._begun_at_the_end(partition):
                    continue
                self._rewinding.discard(partition)
        self._rewinding &= self.assignment()
        return True

    def _begun_at_the_end(self, partition: Partition) -> bool:
        """Commit where that is: or else what comes before the first answer would be jumped over after a restart."""
        place = TopicPartition(*partition)
        try:
            ends = self._call(lambda: self._consumer.end_offsets([place], timeout_ms=1000))
        except (KafkaError, TimeoutError) as error:
            log.warning("where %s-%d ends is not known yet: %s", *partition, named(error))
            return False
        self._began[partition] = ends[place]
        self.commit({partition: ends[place]})
        self.seek(partition, ends[place])
        return True

    def _unread(self, records: Sequence[Record]) -> None:
        """Give records back: the next poll reads them again."""
        for record in reversed(records):
            self.seek(*record.position)

    def _note(self, records: Sequence[Record]) -> None:
        if self._start == "earliest":
            for record in records:
                self._began.setdefault(*record.position)
        if records:
            self._moved_at = time.monotonic()


def _offsets(offsets: Mapping[Partition, int]) -> dict[Any, Any]:
    return {TopicPartition(*partition): OffsetAndMetadata(offset, "", -1) for partition, offset in offsets.items()}
