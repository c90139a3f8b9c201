"""Where records come from: the protocol, and what a rebalance has changed."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tta_daemon.stream.records import Partition, Record


@dataclass(frozen=True, slots=True)
class Changes:
    """What happened to the assignment since the last look.

    `revoked` partitions are still ours: settle now; the next poll gives them up. `lost` ones are another's already.
    Forget both before looking at `assigned`: a partition may have come back, and is read from what was committed.
    """

    assigned: frozenset[Partition] = frozenset()
    revoked: frozenset[Partition] = frozenset()
    lost: frozenset[Partition] = frozenset()

    def __bool__(self) -> bool:
        """Whether anything happened."""
        return bool(self.assigned or self.revoked or self.lost)


class Source(Protocol):
    """A member of a consumer group. No call blocks for longer than its deadline."""

    def poll(self, timeout_s: float, most: int) -> Sequence[Record]:
        """At most `most` records, waiting up to `timeout_s` for the first; in order within each partition.

        Nothing comes while there are revoked or lost partitions that `changes` has not told of.
        """

    def commit(self, offsets: Mapping[Partition, int]) -> bool:
        """Commit the next offsets to read; False where a rebalance refused it: the records come again."""

    def seek(self, partition: Partition, offset: int) -> None:
        """Read this partition from here on."""

    def rewind(self, partitions: Collection[Partition]) -> None:
        """Read these partitions again from what the group has committed, or from where we began."""

    def pause(self, partitions: Collection[Partition]) -> None:
        """Read nothing from these partitions for now."""

    def resume(self, partitions: Collection[Partition]) -> None:
        """Read from these partitions again."""

    def assignment(self) -> frozenset[Partition]:
        """The partitions that are ours."""

    def committed(self, partitions: Collection[Partition]) -> Mapping[Partition, int]:
        """What the group has committed; a partition is absent where nothing was."""

    def oldest(self, partition: Partition) -> int:
        """The first offset that is still in the log."""

    def changes(self) -> Changes:
        """What a rebalance has changed since the last call."""

    def lag(self) -> Mapping[Partition, int]:
        """How many records wait behind our position; cheap, possibly a little old."""

    def close(self) -> None:
        """Leave the group."""


class Tail(Protocol):
    """All partitions of a topic from a while ago on, without a group: every replica reads everything."""

    def poll(self, timeout_s: float, most: int) -> Sequence[Record]:
        """At most `most` records, waiting up to `timeout_s` for the first."""

    def close(self) -> None:
        """Stop reading."""
