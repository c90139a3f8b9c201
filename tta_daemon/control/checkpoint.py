"""Saved states: what a restart resumes from, so that it neither learns a record twice nor skips one.

Two things outlive a crash: the newest durable *state*, with the offsets L before which it has learned every record,
and the group's *offsets* C before which every record is answered. They are saved by different hands, the state now
and then and off the loop, so either may be ahead. Why that is enough:

1. Each is true by itself. A snapshot is a copy taken between two batches together with its L, and its bytes are
   refused unless all of them are there. Offsets are committed after the answers before them were delivered
   (at_least_once) or in one transaction with them (exactly_once).
2. So a restart from any such pair knows what each record lacks: it begins at min(L, C); a record before L is not
   learned again, a record before C not answered again (`tta_daemon.stream.progress.Progress`). L < C after a crash
   between two saves: the records between are learned, and nothing is sent. C < L where a state was saved and its
   settlement failed: the records between are answered by `predict` (in exactly_once their first answers were never
   visible).
3. The state after that is the uninterrupted run's, bit for bit, where the batches are: a snapshot lies between two
   batches, and a batch never mixes records to be learned with records that are not. So the batches from L on hold the
   same records, if they were full ones of one partition. With partial batches, several partitions in one stream, or
   learning that yields to lag or budget, the clock decides what is learned together, crash or no crash.

4. There is a pair from the start: the very first state is durable before the first offsets are committed.

Nothing is skipped while the records between L and C are still in the log, and no more than `checkpoint.relearn_most`:
save more often than the log is deleted. The order inside a settlement (deliver, save, commit) is not needed for any of
this; it keeps the work after a crash small. In exactly_once, a changelog in Kafka goes into the same transaction as
the answers and offsets, so where every settlement saves, L = C.
"""

from collections.abc import Iterable
from typing import Protocol

import structlog

from tta_daemon.control.snapshot import Snapshot, decode, encode
from tta_daemon.errors import CheckpointError

log = structlog.get_logger(__name__)


class Checkpoint(Protocol):
    """Where states outlive the process, each stream's newest on top."""

    with_answers: bool
    """Whether a save is part of the settlement, and so final only when that is; else it is final at once."""

    def save(self, snapshot: Snapshot) -> int:
        """Keep this state; returns its bytes. CheckpointError if that cannot be done; older ones are unharmed."""

    def latest(self, stream: str) -> Snapshot | None:
        """The stream's newest whole state; broken ones are skipped with a warning.

        Raises:
            CheckpointError: what is saved cannot be read, for now.
        """

    def set_aside(self, stream: str) -> int:
        """Put the stream's states where `latest` does not look; returns how many."""

    def close(self) -> None:
        """Let go of folders and connections."""


class MemoryCheckpoint:
    """States as bytes in memory; implements `Checkpoint`."""

    def __init__(self, keep: int = 3) -> None:
        self.with_answers = False
        self.saved: dict[str, list[bytes]] = {}
        self.aside: dict[str, list[bytes]] = {}
        self._keep = keep

    def save(self, snapshot: Snapshot) -> int:
        """See `Checkpoint`."""
        blob = encode(snapshot)
        self.saved[snapshot.stream] = [*self.saved.get(snapshot.stream, ()), blob][-self._keep :]
        return len(blob)

    def latest(self, stream: str) -> Snapshot | None:
        """See `Checkpoint`."""
        blobs = list(enumerate(self.saved.get(stream, ())))
        return newest_whole((f"{stream} {at}", blob) for at, blob in reversed(blobs))

    def set_aside(self, stream: str) -> int:
        """See `Checkpoint`."""
        self.aside[stream] = self.saved.pop(stream, [])
        return len(self.aside[stream])

    def close(self) -> None:
        """Nothing to let go of."""


def newest_whole(candidates: Iterable[tuple[str, bytes]]) -> Snapshot | None:
    """The first of these named blobs, newest first, that is a whole state; the broken ones before it are warned of."""
    for name, blob in candidates:
        try:
            return decode(blob)
        except CheckpointError as fault:
            log.warning("a saved state is broken; trying the one before it", state=name, error=str(fault))
    return None
