"""What a process holds while a trial runs: memory, file descriptors, threads, once a second."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Event, Thread
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
import psutil

MEGA = 1 << 20


class Sample(NamedTuple):
    """One look at a process."""

    at_s: float
    rss_mb: float
    descriptors: int
    threads: int


class Vitals:
    """Looks at a process every so often, on a thread, for as long as the block lasts."""

    def __init__(self, pid: Callable[[], int | None], every_s: float = 1.0) -> None:
        self.samples: list[Sample] = []
        self.began = time.monotonic()
        self._pid, self._every_s = pid, every_s
        self._stopping = Event()
        self._thread = Thread(target=self._run, name="vitals", daemon=True)

    def now(self) -> float:
        """Seconds since the first look."""
        return time.monotonic() - self.began

    def between(self, start_s: float, end_s: float) -> list[Sample]:
        """The looks of a stretch of time."""
        return [sample for sample in self.samples if start_s <= sample.at_s <= end_s]

    def __enter__(self) -> Self:
        """Begin to look."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Look no more."""
        self._stopping.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stopping.wait(self._every_s):
            with suppress(psutil.Error):
                if (pid := self._pid()) is not None:
                    process = psutil.Process(pid)
                    rss_mb = process.memory_info().rss / MEGA
                    self.samples.append(Sample(self.now(), rss_mb, process.num_fds(), process.num_threads()))


def slope(samples: Sequence[Sample]) -> float:
    """How the memory grows, in MiB an hour, by least squares; 0 for fewer than three looks.

    >>> slope([Sample(at, 100 + at / 60, 1, 1) for at in (0.0, 60.0, 120.0)])
    60.0
    """
    if len(samples) < 3:
        return 0.0
    at, rss = np.array([(sample.at_s, sample.rss_mb) for sample in samples]).T
    return round(float(np.polyfit(at, rss, 1)[0]) * 3600, 2)


def figures(samples: Sequence[Sample]) -> dict[str, float]:
    """The figures of a stretch."""
    if not samples:
        return {}
    rss = [sample.rss_mb for sample in samples]
    return {
        "seconds": round(samples[-1].at_s - samples[0].at_s),
        "rss_mb_first": round(rss[0], 1),
        "rss_mb_last": round(rss[-1], 1),
        "rss_mb_min": round(min(rss), 1),
        "rss_mb_max": round(max(rss), 1),
        "rss_mb_per_hour": slope(samples),
        "descriptors_first": samples[0].descriptors,
        "descriptors_last": samples[-1].descriptors,
        "threads_first": samples[0].threads,
        "threads_last": samples[-1].threads,
    }
