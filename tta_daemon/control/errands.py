"""Errands: what only the loop may do, asked for from outside and done between two batches."""

import threading
from collections.abc import Mapping
from concurrent.futures import Future
from enum import StrEnum
from typing import NamedTuple


class Errand(StrEnum):
    """What may be asked for: a closed set, one page of the HTTP server each."""

    RESET = "reset"
    CHECKPOINT = "checkpoint"


class Done(NamedTuple):
    """How an errand ended: done, or refused with nothing changed; and the words for a person."""

    done: bool
    words: str


class Errands:
    """One place for each errand: whoever asks for what is asked for already waits for the same answer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: dict[Errand, Future[Done]] = {}

    def ask(self, errand: Errand) -> Future[Done]:
        """Have it done. A future that is cancelled before the loop comes to it is an errand that is not done."""
        with self._lock:
            known = self._asked.get(errand)
            if known is None or known.cancelled():
                known = self._asked[errand] = Future()
            return known

    def take(self) -> Mapping[Errand, Future[Done]]:
        """For the loop: what was asked for and is still wanted."""
        with self._lock:
            asked, self._asked = self._asked, {}
        return {errand: future for errand, future in asked.items() if future.set_running_or_notify_cancel()}
