"""Saving, now and then, without holding up the loop."""

import time
from collections.abc import Callable, Mapping
from threading import Thread
from typing import Any, Protocol

import structlog

from tta_daemon.errors import CheckpointError
from tta_daemon.stream.records import Partition
from tta_daemon.watch.metrics import Metrics

Learned = Mapping[Partition, int]

FIRST_S = 30.0
"""How long the first save may hold up the loop."""


class Saved(Protocol):
    """Something to be written down, and what was learned up to it."""

    @property
    def learned(self) -> Learned:
        """The offsets before which every record is learned."""


class Place(Protocol):
    """Where it is written down: a `Checkpoint` or `StreamStates`."""

    with_answers: bool

    def save(self, _: Any, /) -> int:  # noqa: ANN401 - each its own
        """Keep it; returns its bytes."""


log = structlog.get_logger(__name__)


class Scribe:
    """Writes snapshots down, one at a time: while one is being written, none is due, so copies never pile up.

    A checkpoint that is part of the settlement is written by the loop, and counts once `settled`; any other is written
    on a thread of its own, and only the first one is waited for: without any state a restart would not know what it
    lacks. A state that cannot be saved is counted and tried again later; the daemon goes on.
    """

    def __init__(
        self,
        checkpoint: Place | None,
        every_s: float,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.checkpoint = checkpoint
        self.every_s = every_s
        self._metrics = metrics
        self._clock = clock
        self._began_at = clock()
        self._writer: Thread | None = None
        self._hurried = self._first = True
        self._kept: Learned = {}
        self._unsettled: tuple[Saved, int, float] | None = None

    def due(self, learned: Learned) -> bool:
        """Whether to save now that all records before these offsets are learned."""
        busy = self._writer is not None and self._writer.is_alive()
        if self.checkpoint is None or busy or learned == self._kept:
            return False
        return self._hurried or self._clock() - self._began_at >= self.every_s

    def offer(self, learned: Learned, snapshot: Callable[[Learned], Saved]) -> None:
        """Take a snapshot and write it down, if that is due: once in every settlement, before it is final."""
        if self._unsettled is not None:  # the last settlement failed, and what was sent with it is void
            self._unsettled, self._hurried = None, True
        if self.due(learned):
            self.save(snapshot(learned))

    def save(self, snapshot: Saved) -> None:
        """Write this down; nothing may change the snapshot's tensors from now on."""
        self._began_at, self._hurried = self._clock(), False
        if self.checkpoint is not None and self.checkpoint.with_answers:
            self._unsettled = self._written(self.checkpoint, snapshot)
        elif self.checkpoint is not None:
            self._writer = Thread(target=self._write, args=(self.checkpoint, snapshot), name="checkpoint", daemon=True)
            self._writer.start()
            if self._first:
                self._writer.join(FIRST_S)
        self._first = False

    def settled(self) -> None:
        """What was saved with the answers is final, as they are."""
        if self._unsettled is not None:
            self._keep(*self._unsettled)
            self._unsettled = None

    def hasten(self, timeout_s: float = 0.0) -> None:
        """Have the next settlement save what is new, however recent the last save is; waits for one under way."""
        self._hurried = True
        if self._writer is not None:
            self._writer.join(timeout_s)

    def kept(self, learned: Learned, timeout_s: float) -> bool:
        """Whether a state that has learned all this outlives us; waits for one under way."""
        if self._writer is not None:
            self._writer.join(timeout_s)
        return self._kept == learned

    def holds(self, learned: Learned) -> bool:
        """Whether what was saved last is the very thing that these marks came with."""
        return self._kept is learned

    def first(self) -> None:
        """Something begins of which nothing was ever saved: wait for the next save, and save soon."""
        self._first = self._hurried = True

    def resumed(self, snapshot: Saved) -> None:
        """What we have is what was saved."""
        self._kept, self._hurried, self._first = snapshot.learned, False, False

    def departed(self) -> None:
        """What we have is not what was saved, though no record made the difference: save as soon as possible."""
        self._kept, self._hurried = {}, True

    def close(self, timeout_s: float) -> None:
        """Let the last word be written."""
        if self._writer is not None:
            self._writer.join(timeout_s)

    def _write(self, checkpoint: Place, snapshot: Saved) -> None:
        if (written := self._written(checkpoint, snapshot)) is not None:
            self._keep(*written)

    def _written(self, checkpoint: Place, snapshot: Saved) -> tuple[Saved, int, float] | None:
        began = time.perf_counter()
        try:
            size = checkpoint.save(snapshot)
        except CheckpointError as fault:
            log.warning("the state is not saved; trying again later", error=str(fault), in_s=self.every_s)
            self._metrics.unsaved()
            return None
        return snapshot, size, time.perf_counter() - began

    def _keep(self, snapshot: Saved, size: int, seconds: float) -> None:
        self._kept = snapshot.learned
        self._metrics.saved(size, seconds)
        log.debug("state saved", bytes=size, seconds=round(seconds, 4), learned=len(snapshot.learned))
