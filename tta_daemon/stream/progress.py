"""Which records to answer and which to learn from, when some come a second time."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from tta_daemon.stream.records import Partition, Position, Stream


@dataclass(frozen=True, slots=True)
class Start:
    """Where to read a partition from (None: from where the group stands), and how many offsets nobody learns."""

    seek: int | None = None
    skipped: int = 0


EVERYTHING = Stream()
"""The one stream that there is where all records share a state."""


def _zero(_: Partition) -> int:
    return 0


class Progress:
    """Two marks per partition: the state has learned all records before one, all before the other are answered.

    The state and the group's offsets are saved by different hands at different moments, so after a crash either may be
    ahead. We begin at the lesser mark, and each record gets only what it still lacks. The same marks serve while the
    daemon lives, when a failed delivery or a rebalance brings records back.

    Invariant: the learned mark never goes back, so no record is learned twice by the same state.

    Args:
        learned: the marks that were saved with the state.
        relearn_most: the most records of a partition that are learned without being answered, newest first kept.

    >>> images = Partition("images", 0)
    >>> progress = Progress({images: 8})  # the state was saved here, 16 records before the crash
    >>> progress.begin(images, committed=24)
    Start(seek=8, skipped=0)
    >>> [(progress.must_learn(Position(images, at)), progress.must_answer(Position(images, at))) for at in (8, 24)]
    [(True, False), (True, True)]
    """

    def __init__(self, learned: Mapping[Partition, int] | None = None, relearn_most: int = 50_000) -> None:
        self.relearn_most = relearn_most
        self._learned = dict(learned or {})
        self._answered: dict[Partition, int] = {}
        self._restored = set(self._learned)

    @property
    def learned(self) -> dict[Partition, int]:
        """The next offset to learn, of every partition that was learned from."""
        return dict(self._learned)

    def knows(self, partition: Partition) -> bool:
        """Whether the partition has a mark, and so may need another start than the group's."""
        return partition in self._learned

    def begin(self, partition: Partition, committed: int | None, oldest: Callable[[Partition], int] = _zero) -> Start:
        """We were given this partition: the group stands at ``committed``, the log begins at ``oldest`` of it.

        Records between the state's mark and the group's are ours to learn if the state was restored and has not caught
        up since. Otherwise another replica has answered them, and learned from them.
        """
        self._answered[partition] = committed or 0
        mark = self._learned.get(partition)
        if mark is None or committed is None or mark >= committed:
            return Start()
        if partition not in self._restored:
            self._learned[partition] = committed
            return Start()
        start = min(committed, max(mark, oldest(partition), committed - self.relearn_most))
        self._learned[partition] = start
        return Start(start if start < committed else None, skipped=start - mark)

    def must_learn(self, position: Position) -> bool:
        """Whether this record is still to be learned from."""
        return position.offset >= self._learned.get(position.partition, 0)

    def must_answer(self, position: Position) -> bool:
        """Whether this record is still to be answered."""
        return position.offset >= self._answered.get(position.partition, 0)

    def read(self, position: Position, stream: Stream | None) -> bool:
        """A record was read; whether it is still to be learned from. None: it is of no stream, for it was refused."""
        return stream is not None and self.must_learn(position)

    def learned_from(self, positions: Collection[Position], stream: Stream = EVERYTHING) -> None:  # noqa: ARG002 - all are one
        """The learner has seen these records, and all before them in their partitions."""
        for partition, offset in positions:
            mark = self._learned[partition] = max(offset + 1, self._learned.get(partition, 0))
            if mark >= self._answered.get(partition, 0):
                self._restored.discard(partition)

    def drop(self, partitions: Collection[Partition]) -> None:
        """What waits of these partitions will come again; the marks know what was learned of it."""

    def behind(self, partitions: Collection[Partition]) -> dict[Partition, int]:
        """Where to learn on, for those of the partitions whose learning has yet to catch up with their answers."""
        marks = {partition: self._learned[partition] for partition in partitions if self.knows(partition)}
        return {partition: mark for partition, mark in marks.items() if mark < self._answered.get(partition, 0)}
