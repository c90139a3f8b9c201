"""Saved states of many streams: what each partition's next owner goes on from.

The argument of `tta_daemon.control.checkpoint`, for streams. What outlives a crash are *states*, each with the offset L
before which its stream has learned every record of its own; for each partition a *floor* F before which every record is
learned by the stream that it is of, in a state that outlives the crash too; and the group's *offsets* C.

1. A round is a copy of all that changed since the last one, taken between two batches. Its states are durable before
   its floors are, so a crash in the middle of it leaves newer states and the older floors, which is true all the same.
2. Whoever owns a partition next begins at min(F, C). A record before C is not answered again; a record before F, or
   before its stream's own L, is not learned again.
3. State, floors and offsets of a partition belong to that partition alone: a stream lives in one. So whoever restores
   a partition restores exactly its streams, and needs nothing that another replica has.

In exactly_once, a changelog in Kafka takes a round into the transaction of its answers and offsets.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from tta_daemon.control.snapshot import Identity, Snapshot, encode
from tta_daemon.stream.records import Partition, Stream


class Found(NamedTuple):
    """One thing that was saved of a partition: a stream's state, or (``name`` None) the partition's floor, as bytes.

    No bytes at all: what was found before is forgotten.
    """

    name: str | None
    blob: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """All that changed since the last round.

    Attributes:
        states: by stream, as snapshot or as bytes already.
        learned: the floors.
        identity: what all of it belongs to.
        gone: streams whose states are to be forgotten.
    """

    states: Mapping[Stream, Snapshot | bytes]
    learned: Mapping[Partition, int]
    identity: Identity = field(default_factory=dict)
    gone: frozenset[Stream] = frozenset()

    def floor(self, partition: Partition) -> bytes:
        """The partition's floor, as it is saved."""
        return encode(Snapshot("", {}, {partition: self.learned[partition]}, self.identity))


class StreamStates(Protocol):
    """Where states of many streams outlive the process."""

    with_answers: bool
    """Whether a save is part of the settlement, and so final only when that is; else it is final at once."""
    shared: bool
    """Whether other replicas write there as well, so that a partition that comes back must be read anew."""

    def save(self, saved: Round) -> int:
        """Keep all of it; returns its bytes. CheckpointError if that cannot be done; what was there is unharmed."""

    def restore(self, partition: Partition) -> Iterator[Sequence[Found]]:
        """The newest state of each stream of the partition, and its floor, a few at a time.

        What comes later replaces what came before. Each step returns soon, if with nothing; closing it ends it early.

        Raises:
            BrokerUnreachable: what is saved cannot be read, for now.
        """

    def set_aside(self, partition: Partition) -> Iterator[Sequence[Found]]:
        """As `restore`, and put what is found where nobody looks."""

    def close(self) -> None:
        """Let go of folders and connections."""


class MemoryStates:
    """States as bytes in memory; implements `StreamStates`. Replicas in one process may share it."""

    def __init__(self, *, shared: bool = True) -> None:
        self.with_answers = False
        self.shared = shared
        self.saved: dict[Stream, bytes] = {}
        self.floors: dict[Partition, bytes] = {}
        self.aside: dict[Stream, bytes] = {}

    def save(self, saved: Round) -> int:
        """See `StreamStates`."""
        blobs = {stream: encoded(state) for stream, state in saved.states.items()}
        self.saved |= blobs
        self.floors |= {partition: saved.floor(partition) for partition in saved.learned}
        for stream in saved.gone - set(blobs):
            self.saved.pop(stream, None)
        return sum(map(len, blobs.values()))

    def restore(self, partition: Partition) -> Iterator[Sequence[Found]]:
        """See `StreamStates`."""
        if partition in self.floors:
            yield [Found(None, self.floors[partition])]
        for stream, blob in list(self.saved.items()):
            if stream.home == partition:
                yield [Found(stream.name, blob)]

    def set_aside(self, partition: Partition) -> Iterator[Sequence[Found]]:
        """See `StreamStates`."""
        yield from self.restore(partition)
        self.floors.pop(partition, None)
        for stream in [stream for stream in self.saved if stream.home == partition]:
            self.aside[stream] = self.saved.pop(stream)

    def close(self) -> None:
        """Nothing to let go of."""


def encoded(state: Snapshot | bytes) -> bytes:
    """The state's bytes."""
    return state if isinstance(state, bytes) else encode(state)
