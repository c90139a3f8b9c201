"""What a replay writes down while the daemon works: the metrics' moments, heard by one more listener."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

from tta_daemon.answered import Answered, Hold
from tta_daemon.errors import Reason
from tta_daemon.stream.records import Batch
from tta_daemon.watch.metrics import Metrics, Restore

See = Callable[[Batch, Answered], None]


class Tape(Metrics):
    """The daemon's metrics, which also hand every answered batch to ``see`` and keep count of the rest.

    Attributes:
        batches: how many were answered.
        learned_from: how many of them were learned from.
        held: how many were not, by reason.
        rewound: how often learned state was put back, by whom: the daemon's reasons, and ``method`` for its own.
        served: how many images were answered by whom.
        rejected_for: how many records were rejected, by reason.
        seconds: spent in each phase of the loop.
        signals: the sum of each signal of the method, over the steps.
    """

    def __init__(self, see: See) -> None:
        super().__init__()
        self._see = see
        self.batches = self.learned_from = 0
        self.held: Counter[str] = Counter()
        self.rewound: Counter[str] = Counter()
        self.served: Counter[str] = Counter()
        self.rejected_for: Counter[str] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.signals: defaultdict[str, float] = defaultdict(float)

    def answered(self, batch: Batch, answered: Answered) -> None:
        """See `Metrics`."""
        super().answered(batch, answered)
        self.batches += 1
        self.seconds["answer"] += answered.seconds
        self.served[answered.serve.value] += batch.size
        self._see(batch, answered)

    def learned(self, signals: Mapping[str, float] | None, hold: Hold | None) -> None:
        """See `Metrics`."""
        super().learned(signals, hold)
        hold = Hold.FAILED if signals is None else hold
        if hold is None:
            self.learned_from += 1
            for name, value in (signals or {}).items():
                self.signals[name] += value
            if signals and signals.get("recovered", 0) > 0:
                self.rewound["method"] += 1
        else:
            self.held[hold.value] += 1

    def rejected(self, reason: Reason) -> None:
        """See `Metrics`."""
        super().rejected(reason)
        self.rejected_for[reason.value] += 1

    def restored(self, reason: Restore) -> None:
        """See `Metrics`."""
        super().restored(reason)
        self.rewound[reason.value] += 1

    def timed(self, phase: str) -> AbstractContextManager[None]:
        """See `Metrics`."""
        return self._stopwatch(phase)

    @contextmanager
    def _stopwatch(self, phase: str) -> Iterator[None]:
        began = time.perf_counter()
        with super().timed(phase):
            yield
        self.seconds[phase] += time.perf_counter() - began
