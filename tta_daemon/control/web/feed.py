"""What the status page shows, read once a second and told as documents."""

import asyncio
import math
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import structlog
from prometheus_client import CollectorRegistry

from tta_daemon import __version__
from tta_daemon.control.sections import Http
from tta_daemon.control.web.board import Board
from tta_daemon.control.web.columns import COLUMNS, DETECTORS, TOTALS
from tta_daemon.control.web.history import FINE_S, TIERS, History
from tta_daemon.control.web.reading import Reading
from tta_daemon.control.web.summary import cards

LATELY_S = 15
"""What rates and latencies are taken over."""

log = structlog.get_logger(__name__)


class Cursor(NamedTuple):
    """How far somebody has read: which resolution, samples until when, events up to which."""

    span_s: int
    at: float
    event: int

    @classmethod
    def parse(cls, span: str | None, cursor: str | None) -> "Cursor":
        """As a document called it, for this span; the beginning, where absent. Raises ValueError for nonsense."""
        span_s = int(span or next(iter(TIERS)))
        if span_s not in TIERS:
            raise ValueError(f"span is one of {', '.join(map(str, TIERS))}")
        at, _, event = (cursor or "0_0").partition("_")
        if not math.isfinite(float(at)):
            raise ValueError("a cursor is what a document called so")
        return cls(span_s, float(at), int(event))


class Feed:
    """Reads the registry once a second for as long as it is `kept`.

    Args:
        board: what the loop says of itself.
        registry: what Prometheus is shown.
        http: gives the settings in force.
        now: wall clock, in seconds since the epoch.
    """

    def __init__(
        self, board: Board, registry: CollectorRegistry, http: Callable[[], Http], now: Callable[[], float] = time.time
    ) -> None:
        self._board, self._registry, self._http, self._now = board, registry, http, now
        self._history = History(COLUMNS, TOTALS)
        self._readings: deque[Reading] = deque(maxlen=LATELY_S + 1)
        self._turned = asyncio.Condition()
        self._run = secrets.token_hex(4)
        self.closed = False

    async def keep(self) -> None:
        """Read once a second until closed."""
        while not self.closed:
            try:
                self.read()
            except Exception:
                log.exception("the status page could not be read; trying again")
            async with self._turned:
                self._turned.notify_all()
            await asyncio.sleep(FINE_S - self._now() % FINE_S)

    async def close(self) -> None:
        """Read no more, and let nobody wait for it."""
        self.closed = True
        async with self._turned:
            self._turned.notify_all()

    async def turned(self) -> None:
        """Wait until it has been read again, or closed."""
        async with self._turned:
            await self._turned.wait()

    def read(self) -> None:
        """Take a sample."""
        reading = Reading(self._registry, self._now())
        self._readings.append(reading)
        before = self._readings[0]
        self._history.add(reading.at, {name: of(reading, before) for name, of in {**COLUMNS, **TOTALS}.items()})

    def document(self, cursor: Cursor) -> tuple[dict[str, Any], Cursor]:
        """All that is new to whoever has read so far, and how things stand; and how far that is."""
        if not self._readings:
            self.read()
        now, http = self._readings[-1], self._http()
        samples = self._history.since(cursor.span_s, cursor.at)
        events = [event for event in self._board.events if event.number > cursor.event]
        read = Cursor(
            cursor.span_s, max(samples["at"], default=cursor.at), max((e.number for e in events), default=cursor.event)
        )
        return {
            "at": now.at,
            "run": self._run,
            "cursor": f"{read.at}_{read.event}",
            "version": __version__,
            "samples": samples,
            "cards": cards(self._board, http, now, self._history),
            "facts": _facts(now, http),
            "events": [event.plain() for event in events],
            "pictures": self._board.gallery.plain() if http.images else None,
        }, read


def _facts(now: Reading, http: Http) -> dict[str, Any]:
    """What the page shows beside the charts."""
    return {
        "model": dict(now.labels("tta_model_info")),
        "build": dict(now.labels("tta_build_info")),
        "config": now.labels("tta_config_info").get("digest"),
        "lifecycle": http.lifecycle,
        "lag": {f"{p['topic']}-{p['partition']}": value for p, value in now.series("tta_consumer_lag_records")},
        "dead": _told(now.by("tta_records_dead_lettered_total", "reason")),
        "skipped": _told(now.by("tta_adaptation_skipped_total", "reason")),
        "restored": _told(now.by("tta_restores_total", "reason")),
        "guarded": bool(now.by("tta_guard_decisions_total", "decision")),
        "guard": _told(now.by("tta_guard_decisions_total", "decision")),
        "thresholds": {d: now.value("tta_drift_threshold", detector=d) for d in DETECTORS},
        "answered": now.total("tta_images_answered_total"),
    }


def _told(counts: Mapping[str, float]) -> dict[str, float]:
    return {name: count for name, count in counts.items() if count}
