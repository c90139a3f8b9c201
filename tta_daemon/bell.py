"""What a signal handler rings to have a loop end."""

from contextlib import suppress
from queue import Empty, SimpleQueue


class Bell:
    """As `threading.Event`, and safe to ring from a signal handler.

    Whoever waits for an Event holds a lock for a moment; a handler that interrupts just that one, and sets the Event,
    waits for that lock for ever. The put of a `SimpleQueue` may interrupt its get.
    """

    def __init__(self) -> None:
        self._rung = False
        self._wake: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        """Ring."""
        self._rung = True
        self._wake.put(None)

    def is_set(self) -> bool:
        """Whether it was rung."""
        return self._rung

    def wait(self, timeout_s: float) -> bool:
        """Whether it was rung, after so many seconds at most. For one thread."""
        if not self._rung:
            with suppress(Empty):
                self._wake.get(timeout=timeout_s)
        return self._rung
