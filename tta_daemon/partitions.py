"""Which partitions are ours: what a rebalance takes and brings, where each begins, and reading again what failed."""

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

import structlog

from tta_daemon.backoff import Backoff
from tta_daemon.control.web.board import Kind
from tta_daemon.errors import BrokerUnreachable, DeliveryError
from tta_daemon.stream.records import Partition

if TYPE_CHECKING:
    from tta_daemon.daemon import Daemon

log = structlog.get_logger(__name__)


class Partitions:
    """Follows the group for the loop, and on its thread. A record is admitted only where its partition has begun."""

    def __init__(self, daemon: "Daemon") -> None:
        self._daemon = daemon
        self._beginning = Backoff(daemon.clock)
        self._begun: set[Partition] = set()
        self._arriving: set[Partition] = set()

    @property
    def arriving(self) -> bool:
        """Whether partitions wait for their beginning."""
        return bool(self._arriving)

    def __contains__(self, partition: object) -> bool:
        """Whether it is known where this partition begins."""
        return partition in self._begun

    def follow(self) -> None:
        """Settle what is being taken away while it is still ours, then let go of it: its next owner reads on there."""
        daemon = self._daemon
        changes = daemon.source.changes()
        if changes:
            moved = {name: sorted(partitions) for name, partitions in asdict(changes).items() if partitions}
            log.info("partitions moved", **moved)
            words = (f"{name} " + " ".join(f"{t}-{n}" for t, n in which) for name, which in moved.items())
            daemon.board.happened(Kind.PARTITIONS, "partitions: " + ", ".join(words))
        self._let_go(changes.lost)
        try:
            if changes.revoked:
                daemon.clear(daemon.config.limits.drain_s, heed_stop=False)  # the group waits for us, but not for ever
                if daemon.gaping:
                    self._undo()
                if daemon.streams.follow_partitions:
                    daemon.scribe.hasten(daemon.config.settle.timeout_s)
                daemon.settle()
        finally:
            self._let_go(changes.revoked)
            self._arriving |= changes.assigned
        self._begin()

    def _undo(self) -> None:
        """Abandon answers that would be final before older ones; what comes after the rebalance begins afresh."""
        daemon = self._daemon
        daemon.sink.abandon()
        daemon.sink.settle(daemon.source, {}, daemon.config.settle.timeout_s)
        raise DeliveryError("partitions are taken away before all that waits could be answered")

    def read_again(self, fault: DeliveryError) -> None:
        """Forget what was not settled and go back to where the group stands: nothing is lost, some may come twice."""
        daemon = self._daemon
        log.warning("not delivered; reading again from what was committed", error=str(fault))
        daemon.metrics.undelivered()
        daemon.board.happened(Kind.UNDELIVERED, f"not delivered, read again: {fault}")
        daemon.batcher.drain()
        self._abandon()
        partitions = daemon.source.assignment()
        daemon.ledger.forget(partitions)
        daemon.progress.drop(partitions)
        daemon.source.rewind(partitions)
        for partition, offset in daemon.progress.behind(partitions).items():
            daemon.source.seek(partition, offset)

    def _abandon(self) -> None:
        """Have the sink forget what was not settled, however long the broker is away."""
        daemon, backoff = self._daemon, Backoff(self._daemon.clock)
        while True:
            try:
                return daemon.sink.abandon()
            except DeliveryError as still:
                pause_s = backoff.failed()
                log.warning("the broker is away; trying again", error=str(still), in_s=pause_s)
                if not daemon.pause(pause_s):
                    raise

    def _let_go(self, partitions: frozenset[Partition]) -> None:
        """Forget what waits of partitions that are another's now."""
        self._daemon.batcher.drop(partitions)
        self._daemon.ledger.forget(partitions)
        self._daemon.streams.let_go(partitions)
        self._daemon.metrics.forget(partitions)
        self._begun -= partitions
        self._arriving -= partitions

    def _begin(self) -> None:
        """Read each partition that came to us from where the group or the state stands, whichever is behind.

        What was read of it before that is known is not admitted, and read again.
        """
        if not (self._arriving and self._beginning.due):
            return
        for partition in sorted(self._arriving):
            try:
                if not self._daemon.streams.ready(partition, partial(self._committed, partition)):
                    continue
                self._begin_one(partition)
            except BrokerUnreachable as fault:
                log.warning("no partition can begin; trying again", error=str(fault), in_s=self._beginning.failed())
                return
            self._beginning.worked()
            self._arriving.discard(partition)
            self._begun.add(partition)

    def _begin_one(self, partition: Partition) -> None:
        source, progress = self._daemon.source, self._daemon.progress
        committed = self._committed(partition) if progress.knows(partition) else None
        start = progress.begin(partition, committed, source.oldest)
        if start.skipped:
            log.warning(
                "records that were answered before are not learned from", partition=partition, offsets=start.skipped
            )
        if start.seek is None:
            source.rewind([partition])
        else:
            log.info("learning on from the saved state", partition=partition, offset=start.seek)
            source.seek(partition, start.seek)

    def _committed(self, partition: Partition) -> int | None:
        """Where the group stands. Raises BrokerUnreachable."""
        return self._daemon.source.committed([partition]).get(partition)
