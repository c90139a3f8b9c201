"""Gathering samples into batches, per stream: full ones at once, the others when their patience is over.

No stream starves another: those that are due take turns, a batch each, however much one of them brings. So a stream
waits for its patience, then for no more than a batch of each other one that was there before it.
"""

import math
from collections.abc import Callable, Collection, Iterable
from typing import TypeAlias

from tta_daemon.stream.records import Batch, Partition, Sample, Stream

_Queue: TypeAlias = list[tuple[float, Sample]]


class Batcher:
    """Samples waiting for company. A batch exceeds `size` only where a single record does.

    It ends early where samples that were learned from before meet samples that were not.

    The clock is an argument, so that it can be any clock. `size` (images) and `patience_s` may be changed at any time.

    >>> batcher = Batcher(size=32, patience_s=0.2)
    >>> batcher.waiting, batcher.due(now=0.0), batcher.deadline(now=0.0)
    (0, [], None)
    """

    def __init__(self, size: int, patience_s: float) -> None:
        self.size = size
        self.patience_s = patience_s
        self._waiting: dict[Stream, _Queue] = {}

    @property
    def waiting(self) -> int:
        """How many images wait."""
        return sum(sample.size for queue in self._waiting.values() for _, sample in queue)

    def add(self, sample: Sample, now: float) -> None:
        """Let a sample wait in its stream's queue."""
        self._waiting.setdefault(sample.of, []).append((now, sample))

    def due(self, now: float) -> list[Batch]:
        """Take out every batch that is full, and every one whose first sample has waited long enough.

        Every stream's first batch comes before any stream's second one; of as many turns, who waited longer is first.
        """
        return self._take(lambda queue: queue[0][0] + self.patience_s <= now)

    def drain(self) -> list[Batch]:
        """Take out everything."""
        return self._take(lambda _: True)

    def put_back(self, batches: Iterable[Batch]) -> None:
        """Let what was taken out wait again: in this order, before all that came later, and due at once."""
        again: dict[Stream, _Queue] = {}
        for batch in batches:
            again.setdefault(batch.of, []).extend((-math.inf, sample) for sample in batch.samples)
        for stream, queue in self._waiting.items():
            again.setdefault(stream, []).extend(queue)
        self._waiting = again

    def drop(self, partitions: Collection[Partition]) -> int:
        """Forget the samples of these partitions; returns how many."""
        before = sum(map(len, self._waiting.values()))
        kept = {
            stream: [entry for entry in queue if entry[1].record.position.partition not in partitions]
            for stream, queue in self._waiting.items()
        }
        self._waiting = {stream: queue for stream, queue in kept.items() if queue}
        return before - sum(map(len, self._waiting.values()))

    def deadline(self, now: float) -> float | None:
        """Seconds until the next batch is due (0 if one is), None when nothing waits."""
        if not self._waiting:
            return None
        if any(_images(queue) >= self.size for queue in self._waiting.values()):
            return 0.0
        oldest = min(queue[0][0] for queue in self._waiting.values())
        return max(0.0, oldest + self.patience_s - now)

    def _take(self, ripe: Callable[[_Queue], bool]) -> list[Batch]:
        taken: list[tuple[int, float, Batch]] = []
        for stream, queue in list(self._waiting.items()):
            start = turn = 0
            while start < len(queue):
                end, images = self._reach(queue, start)
                if images < self.size and end == len(queue) and not ripe(queue[start:]):
                    break
                batch = Batch(stream.name, tuple(sample for _, sample in queue[start:end]))
                taken.append((turn, queue[start][0], batch))
                start, turn = end, turn + 1
            if start == len(queue):
                del self._waiting[stream]
            elif start:
                self._waiting[stream] = queue[start:]
        return [batch for _, _, batch in sorted(taken, key=lambda entry: entry[:2])]

    def _reach(self, queue: _Queue, start: int) -> tuple[int, int]:
        """Where the batch that begins at `start` ends, and how many images it holds."""
        end, images = start, 0
        while end < len(queue) and (end == start or self._joins(queue[start][1], images, queue[end][1])):
            images += queue[end][1].size
            end += 1
        return end, images

    def _joins(self, first: Sample, images: int, sample: Sample) -> bool:
        """Whether the sample may be in the batch that `first` began and that holds so many images."""
        return images + sample.size <= self.size and sample.learned == first.learned


def _images(queue: _Queue) -> int:
    return sum(sample.size for _, sample in queue)
