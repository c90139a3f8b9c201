"""All records share one state: nothing is ever swapped, put away or brought back."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from torch import Tensor

from tta_daemon.answered import Answered
from tta_daemon.control.sections import Streams as Settings
from tta_daemon.control.snapshot import Snapshot
from tta_daemon.control.web.board import Board
from tta_daemon.learner import Learner
from tta_daemon.stream.records import Batch, Partition, Stream
from tta_daemon.watch.accuracy import Scored


class One:
    """What `Many` is where ``streams.by`` is "none"."""

    follow_partitions = False

    def __init__(self, learner: Learner) -> None:
        self._learner = learner

    def turn_to(self, stream: Stream, images: Tensor) -> None:
        """It is always the same."""

    def together(self, batches: Sequence[Batch], most: int) -> Iterator[list[Batch]]:  # noqa: ARG002 - all are of one
        """Each batch by itself."""
        yield from ([batch] for batch in batches)

    def answered(self, batch: Batch, answered: Answered, *, moved: bool) -> None:
        """Its past is the learner's."""

    def labeled(self, scored: Scored, now: float) -> None:
        """Labels judge the answers, and the estimates of their accuracy, and what the guard makes of both."""
        life = self._learner.life
        life.guard.labeled(scored, now)
        if life.watch is not None:
            life.watch.labeled(scored, now)

    def ready(self, partition: Partition, committed: Callable[[], int | None]) -> bool:  # noqa: ARG002 - asks for nothing
        """Whether the state that the partition's records need is there."""
        return True

    def let_go(self, partitions: Collection[Partition]) -> None:
        """The state is nobody's but ours."""

    def saved(self, learned: Mapping[Partition, int]) -> Snapshot:
        """What is to outlive us."""
        return self._learner.snapshot(learned)

    def forget(self) -> None:
        """Back to birth."""
        self._learner.forget()

    def rebuilt(self) -> None:
        """Another adapter answers: the learner remembers what the old one learned."""

    def tune(self, settings: Settings) -> None:
        """No limit is ever reached."""

    def told(self, board: Board) -> None:
        """There is nothing to tell apart."""

    def close(self) -> None:
        """There is nothing to let go of."""
