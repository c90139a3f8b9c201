"""Bringing back what was saved of the partitions that come to us, a moment at a time, between two turns of the loop."""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

import structlog

from tta_daemon.control.snapshot import Identity, decode, glance
from tta_daemon.control.stream_states import Found, StreamStates
from tta_daemon.errors import CheckpointError
from tta_daemon.stream.records import Partition, Stream
from tta_daemon.streams.shelf import Shelf

MOMENT_S = 0.1
"""How long the loop may be held up at a time."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Restored:
    """What was found of one partition: its floor, what each stream has learned beyond it, and who was seen when.

    ``whole`` says whether all of it was read before the time was over.
    """

    began_at: float
    steps: Iterator[Sequence[Found]]
    floor: int | None = None
    marks: dict[str, int] = field(default_factory=dict)
    seen: dict[str, tuple[float, int]] = field(default_factory=dict)
    place: Partition = field(default_factory=lambda: Partition("", 0))
    seconds: float = 0.0
    whole: bool = True

    @property
    def streams(self) -> list[tuple[Stream, float, int]]:
        """Each stream, when it was last seen, and the step of its adapter."""
        return [(Stream(name, self.place), seen_at, step) for name, (seen_at, step) in self.seen.items()]


class Restoring:
    """Reads the states of one partition after the other. Whatever is interrupted begins anew when it comes back.

    Args:
        states: where they were saved.
        identity: what they must belong to. States of something else stop a process that has just begun; where the
            method was changed since, they are left alone.
        told: hears what was restored, in words.
        fresh: set aside what is there, the first time that a partition comes.
    """

    def __init__(
        self,
        states: StreamStates,
        identity: Callable[[], Identity],
        told: Callable[[str], None],
        *,
        fresh: bool = False,
    ) -> None:
        self._states, self._identity, self._told, self._fresh = states, identity, told, fresh
        self._at_start = identity()
        self._done: set[Partition] = set()
        self._seen: set[Partition] = set()
        self._under_way: dict[Partition, Restored] = {}

    @property
    def states(self) -> int:
        """How many states were brought back so far of what is under way."""
        return sum(len(restored.seen) for restored in self._under_way.values())

    def __contains__(self, partition: object) -> bool:
        """Whether it is under way."""
        return partition in self._under_way

    def needed(self, partition: Partition, moved_on: Callable[[], bool]) -> bool:
        """Whether to read what was saved: not where it is ours alone, or nobody had it since, and it was read before.

        Args:
            partition: has come to us.
            moved_on: whether another replica has had it meanwhile.
        """
        if partition in self._done:
            return False
        again = partition in self._seen
        if again and partition not in self._under_way and not (self._states.shared and moved_on()):
            self._done.add(partition)
            return False
        return True

    def go_on(self, partition: Partition, within_s: float, shelf: Shelf) -> Restored | None:
        """Read for a moment; what was found, once all is read or ``within_s`` are over. One partition at a time."""
        if partition not in self._under_way:
            if self._under_way:
                return None
            read = self._states.set_aside if self._fresh and partition not in self._seen else self._states.restore
            self._under_way[partition] = Restored(time.monotonic(), read(partition), place=partition)
        restored, until = self._under_way[partition], time.monotonic() + MOMENT_S
        try:
            while time.monotonic() < until:
                if (found := next(restored.steps, None)) is None:
                    return self._end(partition)
                for one in found:
                    self._take(restored, one, shelf)
        except BaseException:
            self.interrupt([partition])
            raise
        if time.monotonic() - restored.began_at > within_s:
            restored.whole = False
            log.warning("the time for restoring is over; the other streams begin anew", partition=partition)
            return self._end(partition)
        return None

    def interrupt(self, partitions: Collection[Partition]) -> None:
        """These partitions are another's: what is under way of them ends, and will be read anew."""
        for partition in partitions:
            self._done.discard(partition)
            if (restored := self._under_way.pop(partition, None)) is not None:
                _close(restored.steps)

    def _end(self, partition: Partition) -> Restored:
        restored = self._under_way.pop(partition)
        _close(restored.steps)
        if self._fresh and partition not in self._seen:
            restored.floor, restored.marks, restored.seen = None, {}, {}
        self._seen.add(partition)
        self._done.add(partition)
        restored.seconds = time.monotonic() - restored.began_at
        restored.marks = {name: mark for name, mark in restored.marks.items() if mark > (restored.floor or 0)}
        place = f"{partition.topic}-{partition.number}"
        log.info("streams restored", partition=place, streams=len(restored.seen), seconds=round(restored.seconds, 3))
        if restored.seen:
            self._told(f"restored {len(restored.seen)} streams of {place} in {restored.seconds:.1f} s")
        return restored

    def _take(self, restored: Restored, found: Found, shelf: Shelf) -> None:
        if self._fresh and restored.place not in self._seen:
            return
        if found.name is None:
            floor = decode(found.blob)
            if self._identity() == self._at_start:
                floor.belongs_to(self._at_start)
            restored.floor = floor.learned.get(restored.place) if floor.identity == self._identity() else None
            return
        stream = Stream(found.name, restored.place)
        if not found.blob:
            restored.seen.pop(found.name, None)
            restored.marks.pop(found.name, None)
            shelf.drop(stream)
            return
        try:
            state = glance(found.blob)
        except CheckpointError as fault:
            log.warning("a saved state is broken; the stream begins anew", stream=found.name, error=str(fault))
            return
        if state.identity != self._identity():
            return
        restored.marks[found.name] = state.learned.get(restored.place, 0)
        restored.seen[found.name] = float(state.about.get("seen_at", "0")), int(state.about.get("step", "0"))
        shelf.put(stream, found.blob)


def _close(steps: Iterator[Sequence[Found]]) -> None:
    """End a generator early, so that it lets go of its connection."""
    if (close := getattr(steps, "close", None)) is not None:
        close()
