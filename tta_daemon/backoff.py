"""Pauses between attempts, longer each time, for a loop that must not stand still meanwhile."""

import time
from collections.abc import Callable

PAUSES_S = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Pauses between attempts to reach a broker; the last one stays."""


class Backoff:
    """Says when to try again what failed.

    >>> now = [0.0]
    >>> backoff = Backoff(lambda: now[0], pauses_s=(1.0, 4.0))
    >>> backoff.due, backoff.failed(), backoff.due
    (True, 1.0, False)
    >>> now[0] = 1.0; backoff.due, backoff.failed(), backoff.failed()
    (True, 4.0, 4.0)
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, pauses_s: tuple[float, ...] = ()) -> None:
        self._clock, self._pauses_s = clock, pauses_s or PAUSES_S
        self._failures = 0
        self._again_at = clock()

    @property
    def due(self) -> bool:
        """Whether to try now."""
        return self._clock() >= self._again_at

    def failed(self) -> float:
        """It did not work; returns the seconds to wait."""
        pause_s = self._pauses_s[min(self._failures, len(self._pauses_s) - 1)]
        self._failures += 1
        self._again_at = self._clock() + pause_s
        return pause_s

    def worked(self) -> None:
        """It worked: the next failure is a first one."""
        self._failures = 0
        self._again_at = self._clock()
