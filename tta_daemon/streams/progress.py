"""Which records to answer and which to learn from, where each stream of a partition learns by itself."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from tta_daemon.stream.progress import Start
from tta_daemon.stream.records import Partition, Position, Stream


@dataclass(slots=True)
class _Page:
    """One partition's account.

    Every record before ``reached`` is learned, or among those that ``wait``; where a stream has learned beyond the
    first that waits, its mark says how far.
    """

    reached: int | None = None
    answered: int = 0
    catching_up: bool = False
    held: bool = False
    waits: dict[int, None] = field(default_factory=dict)
    marks: dict[str, int] = field(default_factory=dict)

    @property
    def floor(self) -> int | None:
        """The offset before which every record is learned by its stream; None where nothing was read yet."""
        return next(iter(self.waits), self.reached)


def _zero(_: Partition) -> int:
    return 0


class StreamProgress:
    """`tta_daemon.stream.progress.Progress`, where batches of one partition overtake each other.

    A partition's floor is what its single mark is there: every record before it is learned by the stream that it is of.
    Beyond it, streams differ, and each has a mark of its own.

    Invariant: no record is learned twice by the same state; a floor never goes back while its partition is held.

    >>> cameras, progress = Partition("images", 0), StreamProgress()
    >>> fog, sun = Stream("fog", cameras), Stream("sun", cameras)
    >>> progress.begin(cameras, committed=7)
    Start(seek=None, skipped=0)
    >>> [progress.read(Position(cameras, offset), which) for offset, which in ((7, fog), (8, sun), (9, fog))]
    [True, True, True]
    >>> progress.learned_from([Position(cameras, 7), Position(cameras, 9)], fog); progress.learned
    {Partition(topic='images', number=0): 8}
    >>> progress.drop([cameras])  # what waits will come again
    >>> progress.read(Position(cameras, 8), sun), progress.read(Position(cameras, 9), fog)
    (True, False)
    """

    def __init__(self, relearn_most: int = 50_000) -> None:
        self.relearn_most = relearn_most
        self._pages: dict[Partition, _Page] = {}

    @property
    def learned(self) -> dict[Partition, int]:
        """The floor of every partition that is held."""
        found = {}
        for partition, page in self._pages.items():
            if page.held and (floor := page.floor) is not None:
                found[partition] = floor
                page.marks = {name: mark for name, mark in page.marks.items() if mark > floor}
        return found

    def knows(self, partition: Partition) -> bool:
        """Whether the partition may need another start than the group's."""
        return partition in self._pages

    def holds(self, partition: Partition) -> bool:
        """Whether the partition is ours."""
        page = self._pages.get(partition)
        return page is not None and page.held

    def floor(self, partition: Partition) -> int | None:
        """The partition's floor, where it has one; also after it was let go of."""
        page = self._pages.get(partition)
        return page.floor if page is not None else None

    def restored(self, partition: Partition, floor: int | None, marks: dict[str, int]) -> None:
        """This is what the saved states of the partition have learned."""
        self._pages[partition] = _Page(reached=floor, catching_up=floor is not None, marks=dict(marks))

    def begin(self, partition: Partition, committed: int | None, oldest: Callable[[Partition], int] = _zero) -> Start:
        """We were given this partition: the group stands at ``committed``, the log begins at ``oldest`` of it.

        Records between a restored floor and the group's are ours to learn. Otherwise another replica has answered
        them, and learned from them.
        """
        page = self._pages.setdefault(partition, _Page())
        page.answered, page.held = committed or 0, True
        floor = page.reached
        if floor is None or committed is None or floor >= committed:
            return Start()
        if not page.catching_up:
            page.reached = committed
            return Start()
        start = min(committed, max(floor, oldest(partition), committed - self.relearn_most))
        page.reached = start
        return Start(start if start < committed else None, skipped=start - floor)

    def read(self, position: Position, stream: Stream | None) -> bool:
        """A record was read; whether its stream is to learn from it. None: it is of no stream, for it was refused."""
        page = self._pages[position.partition]
        mark = 0 if stream is None else max(page.reached or 0, page.marks.get(stream.name, 0))
        teaches = stream is not None and position.offset >= mark
        page.reached = max(page.reached or 0, position.offset + 1)
        if teaches:
            page.waits[position.offset] = None
        return teaches

    def must_answer(self, position: Position) -> bool:
        """Whether this record is still to be answered."""
        page = self._pages.get(position.partition)
        return page is None or position.offset >= page.answered

    def learned_from(self, positions: Collection[Position], stream: Stream) -> None:
        """The stream has seen these records, and all of its own before them."""
        for partition, offset in positions:
            page = self._pages[partition]
            page.waits.pop(offset, None)
            page.marks[stream.name] = max(offset + 1, page.marks.get(stream.name, 0))
            if (page.floor or 0) >= page.answered:
                page.catching_up = False

    def drop(self, partitions: Collection[Partition]) -> None:
        """What waits of these partitions is forgotten; it will come again, here or elsewhere."""
        for page in (self._pages[partition] for partition in partitions if partition in self._pages):
            page.reached = page.floor
            page.waits.clear()

    def let_go(self, partitions: Collection[Partition]) -> None:
        """These partitions are another's, for now; what was learned of them is remembered."""
        self.drop(partitions)
        for page in (self._pages[partition] for partition in partitions if partition in self._pages):
            page.held = False

    def behind(self, partitions: Collection[Partition]) -> dict[Partition, int]:
        """Where to learn on, for those of the partitions whose learning has yet to catch up with their answers."""
        floors = {p: page.floor for p in partitions if (page := self._pages.get(p)) is not None and page.catching_up}
        return {p: floor for p, floor in floors.items() if floor is not None and floor < self._pages[p].answered}
