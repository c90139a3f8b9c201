"""A consumer's place in its group: what a rebalance takes and gives, announced before it happens where possible."""

from collections.abc import Iterable
from threading import Lock
from typing import Any

from kafka import ConsumerRebalanceListener

from tta_daemon.stream.records import Partition


class Membership(ConsumerRebalanceListener):  # type: ignore[misc]
    """Collects what rebalances change; called on the client's thread, it only takes notes.

    kafka-python joins a new generation inside `poll`, where nobody can settle any more. So it is asked to wait for one
    poll: `may_rejoin` says no the first time and notes the partitions as revoked while they are still ours; whoever
    reads the notes settles; the next poll joins. The broker allows `max_poll_interval_ms` for this. A membership that
    is lost already (no heartbeat in time) is not waited for.
    """

    def __init__(self) -> None:
        self.era = 0  # counts the moments at which partitions were taken from us
        self.announced = False  # a rebalance is due at the next poll
        self._lock = Lock()
        self._kept: Any = None
        self.owned: frozenset[Partition] = frozenset()  # while a rebalance goes on, nothing
        self._assigned: set[Partition] = set()
        self._revoked: set[Partition] = set()
        self._lost: set[Partition] = set()

    @property
    def unseen_loss(self) -> bool:
        """Whether partitions were taken that nobody was told of yet."""
        return bool(self._lost)

    @property
    def unseen(self) -> bool:
        """Whether partitions are revoked or lost that nobody was told of yet."""
        return bool(self._lost or self._revoked)

    def watch(self, coordinator: Any) -> None:  # noqa: ANN401
        """Stand between the client and its group: there is no public way to be asked before a rebalance.

        It also keeps what a join has brought until a poll takes it. kafka-python 3.0.12 forgets a join that ends
        between two polls and starts another, which is a rebalance for everybody: two members can go on like that
        for ever. A kept join may be old; then the group refuses its generation, as it does any other's.

        And it has a join that was begun be taken although its reason is gone. A leader that joins again because of
        the topic's partitions is content with them once it has shared them out, which is before it has its own: where
        that falls between two polls, kafka-python never asks again, and the leader is left with nothing, for ever.
        """
        due, join = coordinator.need_rejoin, coordinator._do_join_and_sync_async  # noqa: SLF001

        def need_rejoin() -> bool:
            wanted = self.announced or coordinator.rejoining or due()  # what was announced was let go of already
            return bool(wanted) and self.may_rejoin(lost=coordinator._generation.is_lost())  # noqa: SLF001

        async def kept_join() -> Any:  # noqa: ANN401
            kept, self._kept = self._kept, None
            if kept is None or kept[0] != coordinator._generation:  # noqa: SLF001
                assignment = await join()
                kept = coordinator._generation, assignment  # noqa: SLF001
            self._kept = kept
            return kept[1]

        coordinator.need_rejoin = need_rejoin
        coordinator._do_join_and_sync_async = kept_join  # noqa: SLF001

    def may_rejoin(self, *, lost: bool) -> bool:
        """Whether the client may give up its partitions now."""
        with self._lock:
            if lost or not self.owned:
                return True
            if not self.announced:
                self.announced = True
                self._revoked |= self.owned
            return not self._revoked

    def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        """The client gives up these partitions."""
        with self._lock:
            gone = {Partition(*partition) for partition in revoked}
            self._give_up(gone, told=self.announced)

    def on_partitions_lost(self, lost: Iterable[Any]) -> None:
        """These partitions are another's already."""
        with self._lock:
            self._give_up({Partition(*partition) for partition in lost}, told=False)

    def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        """These partitions are ours now."""
        with self._lock:
            self.owned = frozenset(Partition(*partition) for partition in assigned)
            self._assigned = set(self.owned)
            self.announced = False
            self._kept = None

    def lose_all(self) -> None:
        """Give up everything without the group's help, because the client is renewed."""
        with self._lock:
            self._give_up(set(self.owned), told=False)

    def take(self) -> tuple[frozenset[Partition], frozenset[Partition], frozenset[Partition]]:
        """What was assigned, revoked and lost since the last call."""
        with self._lock:
            taken = frozenset(self._assigned), frozenset(self._revoked), frozenset(self._lost)
            self._assigned, self._revoked, self._lost = set(), set(), set()
            return taken

    def _give_up(self, gone: set[Partition], *, told: bool) -> None:
        self._kept = None
        if gone:
            self.era += 1
            if not told:
                self._lost |= gone
                self._revoked -= gone
        self._assigned -= gone
        self.owned = frozenset()
        self.announced = False
