"""The board between the loop and whoever asks how it is: the loop writes, anybody reads."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tta_daemon.control.systemd import Systemd
from tta_daemon.control.web.chronicle import Chronicle, Entry, Kind
from tta_daemon.control.web.gallery import Gallery

if TYPE_CHECKING:
    from tta_daemon.stream.records import Stream
    from tta_daemon.streams.card import Card

__all__ = ["Board", "Kind", "Verdict"]


class Verdict(NamedTuple):
    """An answer to a probe, and the words for a person."""

    good: bool
    words: str


class Board:
    """The loop's latest word about itself. Every write replaces one reference, so that readers need no lock.

    What a supervisor wants to know is passed on to ``systemd``.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, systemd: Systemd | None = None) -> None:
        self._clock = clock
        self._systemd = systemd or Systemd({})
        self._turned_at: float | None = None
        self._ready = Verdict(good=False, words="starting")
        self._status: Mapping[str, Any] = {}
        self.streams: Sequence[tuple[Stream, Card]] = ()
        self._chronicle = Chronicle()
        self.gallery = Gallery()

    def turned(self) -> None:
        """The loop went round: it lives."""
        self._turned_at = self._clock()
        self._systemd.turned()

    def publish(self, status: Mapping[str, Any]) -> None:
        """What `/api/status` shows from now on; a fresh mapping, never changed after."""
        self._status = status

    def publish_streams(self, streams: "Sequence[tuple[Stream, Card]]") -> None:
        """What `/api/streams` shows from now on; a fresh sequence, never changed after, though its cards are."""
        self.streams = streams

    def happened(self, kind: Kind, words: str, times: int = 1, **numbers: float) -> None:
        """Tell a person what happened, in one line without payloads. Safe from any thread, and cheap."""
        self._chronicle.write(kind, words, numbers, times)

    @property
    def events(self) -> tuple[Entry, ...]:
        """What happened, oldest first; bounded."""
        return self._chronicle.entries

    def announce(self) -> None:
        """The model is loaded and the state restored: ready to answer."""
        self._ready = Verdict(good=True, words="ready")
        self._systemd.ready()

    def withdraw(self, why: str = "stopping") -> None:
        """Not ready any more."""
        self._ready = Verdict(good=False, words=why)
        self._systemd.stopping()

    @property
    def ready(self) -> Verdict:
        """Whether the daemon can answer."""
        return self._ready

    def alive(self, stall_s: float) -> Verdict:
        """Whether the loop turned within ``stall_s``. Before its first turn it is starting, however long that takes."""
        if self._turned_at is None:
            return Verdict(good=True, words="starting")
        still_s = self._clock() - self._turned_at
        if still_s <= stall_s:
            return Verdict(good=True, words="healthy")
        return Verdict(good=False, words=f"the loop stands still since {still_s:.0f} s (http.stall_s is {stall_s:g})")

    def status(self) -> dict[str, Any]:
        """What was published, ready for JSON, beside readiness."""
        plain: dict[str, Any] = _plain(self._status)
        return {"ready": self._ready.good, "readiness": self._ready.words, **plain}


def _plain(value: object) -> Any:  # noqa: ANN401 - what JSON holds
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, bool | int | float | str | None) else str(value)
