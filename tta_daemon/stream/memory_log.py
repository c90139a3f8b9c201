"""A log in memory with the same border as Kafka's: topics, partitions, groups, transactions; for tests and replays."""

import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import count
from zlib import crc32

from tta_daemon.errors import DeliveryError, Fenced
from tta_daemon.stream.records import Headers, Message, Partition, Position, Record
from tta_daemon.stream.source import Changes, Source

Offsets = dict[Partition, int]


class MemoryLog:
    """Topics, what is in them, and what groups have committed.

    >>> log = MemoryLog({"images": 2})
    >>> log.append("images", b"pixels", key=b"camera-1").partition
    Partition(topic='images', number=0)
    """

    def __init__(self, topics: Mapping[str, int] | None = None) -> None:
        self.partitions: dict[Partition, list[Record]] = {}
        self.oldest: Offsets = {}
        self.committed: defaultdict[str, Offsets] = defaultdict(dict)
        self.members: defaultdict[str, list[MemorySource]] = defaultdict(list)
        self.epochs: defaultdict[str, int] = defaultdict(int)
        self._turn = count()
        for topic, number in (topics or {}).items():
            self.create(topic, number)

    def create(self, topic: str, partitions: int = 1) -> None:
        """Make a topic; nothing happens if it exists."""
        for number in range(partitions):
            self.partitions.setdefault(Partition(topic, number), [])

    def of(self, topic: str) -> list[Partition]:
        """The topic's partitions; the topic is made if it does not exist."""
        if Partition(topic, 0) not in self.partitions:
            self.create(topic)
        return sorted(partition for partition in self.partitions if partition.topic == topic)

    def append(  # noqa: PLR0913 - a record has that many parts
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Headers = (),
        partition: int | None = None,
        timestamp_s: float | None = None,
    ) -> Position:
        """Add a record; without a partition the key decides, without a key they take turns."""
        partitions = self.of(topic)
        if partition is None:
            partition = (next(self._turn) if key is None else crc32(key)) % len(partitions)
        place = Partition(topic, partition)
        position = Position(place, len(self.partitions[place]))
        stamp = time.time() if timestamp_s is None else timestamp_s
        self.partitions[place].append(Record(position, key, value, headers, stamp))
        return position

    def records(self, topic: str) -> list[Record]:
        """Everything in a topic, partition by partition."""
        return [record for partition in self.of(topic) for record in self.partitions[partition]]

    def rebalance(self, group: str) -> None:
        """Spread each topic's partitions over the members, in ranges, as Kafka's default does."""
        members = self.members[group]
        shares: dict[MemorySource, set[Partition]] = {member: set() for member in members}
        for topic in sorted({topic for member in members for topic in member.topics}):
            takers = [member for member in members if topic in member.topics]
            partitions = self.of(topic)
            each, more = divmod(len(partitions), len(takers))
            start = 0
            for index, member in enumerate(takers):
                end = start + each + (index < more)
                shares[member].update(partitions[start:end])
                start = end
        for member, share in shares.items():
            member.reassign(share)


class MemorySource:
    """A member of a group of a MemoryLog; implements `Source`."""

    def __init__(self, log: MemoryLog, topics: Sequence[str], group: str = "tta") -> None:
        self.log, self.topics, self.group = log, tuple(topics), group
        self.commits: list[Offsets] = []
        self.era = 0  # counts the moments at which partitions were taken from us without notice
        self._position: Offsets = {}
        self._paused: set[Partition] = set()
        self._assigned: set[Partition] = set()
        self._revoked: set[Partition] = set()
        self._lost: set[Partition] = set()
        log.members[group].append(self)
        log.rebalance(group)

    def reassign(self, share: Collection[Partition]) -> None:
        """What a rebalance does to this member: every partition is revoked and the share assigned."""
        old = set(self._position)
        self._revoked |= old
        self._assigned = set(share)
        committed = self.log.committed[self.group]
        self._position = {partition: committed.get(partition, 0) for partition in sorted(share)}
        self._paused.clear()

    def lose(self, partitions: Collection[Partition]) -> None:
        """What a missed heartbeat does: these partitions are another's already."""
        self.era += 1
        for partition in partitions:
            self._position.pop(partition, None)
        self._lost |= set(partitions)
        self._assigned -= set(partitions)  # nobody was told of these yet, and they are gone

    def poll(self, timeout_s: float, most: int) -> Sequence[Record]:  # noqa: ARG002 - nothing to wait for
        """See `Source`; never waits."""
        found: list[Record] = []
        if self._revoked or self._lost:
            return found
        for partition, offset in list(self._position.items()):
            if partition in self._paused:
                continue
            take = self.log.partitions[partition][offset : offset + most - len(found)]
            self._position[partition] = offset + len(take)
            found += take
        return found

    def commit(self, offsets: Mapping[Partition, int]) -> bool:
        """See `Source`."""
        if not set(offsets) <= set(self._position):
            return False
        self.log.committed[self.group].update(offsets)
        self.commits.append(dict(offsets))
        return True

    def seek(self, partition: Partition, offset: int) -> None:
        """See `Source`."""
        self._position[partition] = offset

    def rewind(self, partitions: Collection[Partition]) -> None:
        """See `Source`."""
        for partition in self.assignment() & set(partitions):
            self._position[partition] = self.log.committed[self.group].get(partition, 0)

    def pause(self, partitions: Collection[Partition]) -> None:
        """See `Source`."""
        self._paused |= set(partitions)

    def resume(self, partitions: Collection[Partition]) -> None:
        """See `Source`."""
        self._paused -= set(partitions)

    def assignment(self) -> frozenset[Partition]:
        """See `Source`."""
        return frozenset(self._position)

    def committed(self, partitions: Collection[Partition]) -> Mapping[Partition, int]:
        """See `Source`."""
        known = self.log.committed[self.group]
        return {partition: known[partition] for partition in partitions if partition in known}

    def oldest(self, partition: Partition) -> int:
        """See `Source`."""
        return self.log.oldest.get(partition, 0)

    def changes(self) -> Changes:
        """See `Source`."""
        changes = Changes(frozenset(self._assigned), frozenset(self._revoked), frozenset(self._lost))
        self._assigned, self._revoked, self._lost = set(), set(), set()
        return changes

    def lag(self) -> Mapping[Partition, int]:
        """See `Source`."""
        return {partition: len(self.log.partitions[partition]) - at for partition, at in self._position.items()}

    def close(self) -> None:
        """Leave the group."""
        if self in self.log.members[self.group]:
            self.log.members[self.group].remove(self)
            self.log.rebalance(self.group)
        self._position.clear()


class MemoryTail:
    """All partitions of a topic of a MemoryLog; implements `Tail`."""

    def __init__(self, log: MemoryLog, topic: str, since_s: float = 0.0) -> None:
        self.log = log
        self._next = {
            partition: next(
                (at for at, record in enumerate(log.partitions[partition]) if record.timestamp_s >= since_s),
                len(log.partitions[partition]),
            )
            for partition in log.of(topic)
        }

    def poll(self, timeout_s: float, most: int) -> Sequence[Record]:  # noqa: ARG002 - nothing to wait for
        """See `Tail`; never waits."""
        found: list[Record] = []
        for partition, offset in list(self._next.items()):
            take = self.log.partitions[partition][offset : offset + most - len(found)]
            self._next[partition] = offset + len(take)
            found += take
        return found

    def close(self) -> None:
        """Nothing to release."""


class MemorySink:
    """Writes into a MemoryLog; implements `Sink`. Set `broken` to an error and delivery fails with it."""

    def __init__(self, log: MemoryLog, *, exactly_once: bool = False, transactional_id: str = "tta") -> None:
        self.log, self.exactly_once, self.transactional_id = log, exactly_once, transactional_id
        self.broken: Exception | None = None
        self._held: list[Message] = []
        self._era = 0
        log.epochs[transactional_id] += exactly_once
        self._epoch = log.epochs[transactional_id]

    def send(self, message: Message) -> None:
        """See `Sink`."""
        self._held.append(message)

    def flush(self, timeout_s: float) -> None:  # noqa: ARG002 - nothing to wait for
        """See `Sink`."""
        self._check()
        if not self.exactly_once:
            self._write()

    def settle(self, source: Source, offsets: Mapping[Partition, int], timeout_s: float) -> bool:
        """See `Sink`."""
        self.flush(timeout_s)
        before, self._era = self._era, getattr(source, "era", 0)
        if self.exactly_once and (not set(offsets) <= source.assignment() or (self._held and before != self._era)):
            self.abandon()
            raise DeliveryError("the group has moved on: the transaction is aborted")
        self._write()
        return not offsets or source.commit(offsets)

    def abandon(self) -> None:
        """See `Sink`."""
        if self.exactly_once:
            self._held.clear()

    def close(self) -> None:
        """See `Sink`."""
        self.abandon()

    def _check(self) -> None:
        if self.exactly_once and self.log.epochs[self.transactional_id] != self._epoch:
            raise Fenced(f"another instance writes as {self.transactional_id}")
        if self.broken is not None:
            raise self.broken

    def _write(self) -> None:
        for message in self._held:
            where = message.partition
            self.log.append(message.topic, message.value, key=message.key, headers=message.headers, partition=where)
        self._held.clear()
