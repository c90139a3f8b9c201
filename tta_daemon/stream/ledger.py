"""Which offsets may be committed: everything before the first record that is still open."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from tta_daemon.stream.records import Partition, Position


@dataclass(slots=True)
class _Page:
    """One partition's account."""

    open: dict[int, int] = field(default_factory=dict)  # offset -> bytes
    next: int = 0
    settled: int = -1
    closed: int = -1  # the furthest


class Ledger:
    """Every record is opened when it is read and closed when its answer or dead letter is on its way.

    Invariant: an offset is safe only if no record before it in its partition is open. Offsets may have gaps
    (compaction, transaction markers).

    >>> ledger, images = Ledger(), Partition("images", 0)
    >>> for offset in 5, 6, 7:
    ...     ledger.opened(Position(images, offset))
    >>> ledger.closed(Position(images, 6)); ledger.safe()
    {}
    >>> ledger.closed(Position(images, 5)); ledger.safe()
    {Partition(topic='images', number=0): 7}
    """

    def __init__(self) -> None:
        self._pages: dict[Partition, _Page] = {}

    @property
    def open_count(self) -> int:
        """How many records are open."""
        return sum(len(page.open) for page in self._pages.values())

    @property
    def open_bytes(self) -> int:
        """What the open records weigh."""
        return sum(sum(page.open.values()) for page in self._pages.values())

    @property
    def ragged(self) -> bool:
        """Whether a record was closed beyond an open one: a commit now would have it answered again after a crash."""
        return any(page.open and page.closed > min(page.open) for page in self._pages.values())

    def opened(self, position: Position, size_bytes: int = 0) -> None:
        """A record was read."""
        page = self._pages.get(position.partition)
        if page is None:
            page = self._pages[position.partition] = _Page(settled=position.offset)
        page.open[position.offset] = size_bytes
        page.next = max(page.next, position.offset + 1)

    def closed(self, position: Position) -> None:
        """A record is answered or buried; nothing happens if its partition was forgotten meanwhile."""
        page = self._pages.get(position.partition)
        if page is not None and page.open.pop(position.offset, None) is not None:
            page.closed = max(page.closed, position.offset)

    def safe(self) -> dict[Partition, int]:
        """The next offset to read per partition, where it is ahead of what was settled."""
        reached = {partition: min(page.open, default=page.next) for partition, page in self._pages.items()}
        return {partition: offset for partition, offset in reached.items() if offset > self._pages[partition].settled}

    def settled(self, offsets: Mapping[Partition, int]) -> None:
        """These offsets are committed."""
        for partition, offset in offsets.items():
            if (page := self._pages.get(partition)) is not None:
                page.settled = max(page.settled, offset)

    def forget(self, partitions: Collection[Partition]) -> None:
        """These partitions are another's, or will be read again from what was committed."""
        for partition in partitions:
            self._pages.pop(partition, None)
