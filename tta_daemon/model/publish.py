"""What was learned goes to the inference service next door: only what the guard calls good, and never by waiting."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from threading import Lock, Thread
from typing import TYPE_CHECKING

import structlog
from torch import Tensor

from adapters import Adapter
from adapters.parts.answering import Answerer
from adapters.parts.norms import beside
from tta_daemon import __version__
from tta_daemon.errors import ConfigError, PublishError
from tta_daemon.model.load import Deployed
from tta_daemon.model.outlets import Outlet
from tta_daemon.model.publication import Publication
from tta_daemon.watch.guard import Serve

if TYPE_CHECKING:
    from tta_daemon.learner import Learner
    from tta_daemon.watch.metrics import Metrics

MOST_STREAMS = 1024
"""Streams that are published at most; of others nothing is."""

UNGUARDED = "unguarded"

RESUMED = 1
"""Whoever goes on from a saved state may be some steps behind what was published; only a newborn takes it back."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Last:
    """What was last published of a stream, and when by the clock."""

    method: str
    step: int
    reverted: bool
    at: float


class Publisher:
    """Publishes a stream's state after it has learned, as often as is wanted, and takes it back when it was forgotten.

    A state that the guard does not believe is not published; where one stands published by then, the source's own
    tensors take its place, as they do after a reset. Writing happens on a thread of its own; what cannot be written is
    counted and tried again with the next state.

    Args:
        outlets: where to.
        every_s: time between two publications of a stream.
        metrics: told of each.
        clock: monotonic seconds.
        now: seconds since the epoch; versions come from it.
    """

    def __init__(
        self,
        outlets: Sequence[Outlet],
        every_s: float,
        metrics: "Metrics",
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.every_s = every_s
        self._outlets = outlets
        self._writer = _Writer(outlets, metrics)
        self._clock, self._now = clock, now
        self._last: dict[str, _Last] = {}
        self._version = 0
        self._stream = ""
        self._full = False

    def look(self, deployed: Deployed, learner: "Learner", stream: str, images: Tensor | None) -> None:
        """Publish what ``stream`` has learned, or take it back, where that is due.

        ``images`` are those of the batch that it has just learned from, or none: their statistics are published.
        """
        self._stream = stream
        answerer = learner.adapter.answerer()
        if answerer is None or learner.method == "source":
            return
        verdict, step, last = verdict_of(learner), learner.step, self._known(stream)
        if last is not None and not last.reverted and (
            verdict is None or step < last.step or learner.method != last.method
        ):  # fmt: skip
            self._publish(deployed, learner, stream, _source(deployed, answerer), "source")
        elif verdict is not None and images is not None and step and self._due(last, step):
            mixed = beside(learner.adapter.mixed, len(images))
            answerer = replace(answerer, source_images=max(answerer.source_images, mixed))
            seen = answerer.seen(images.to(deployed.classifier.mean.device))
            self._publish(deployed, learner, stream, {**answerer.tensors(), **seen}, verdict)

    def departed(self, deployed: Deployed, learner: "Learner", *, everyone: bool = False) -> None:
        """What was learned of the stream that was looked at last is forgotten, or that of ``everyone``."""
        self.look(deployed, learner, self._stream, None)
        answerer = learner.adapter.answerer() if everyone else None
        for stream, last in list(self._last.items()) if answerer is not None else ():
            if not last.reverted and answerer is not None:
                self._publish(deployed, learner, stream, _source(deployed, answerer), "source")

    def close(self, timeout_s: float = 10.0) -> None:
        """Let the last word be written, for so long."""
        self._writer.close(timeout_s)

    def _due(self, last: _Last | None, step: int) -> bool:
        return last is None or (last.step != step and self._clock() >= last.at + self.every_s)

    def _publish(
        self, deployed: Deployed, learner: "Learner", stream: str, tensors: dict[str, Tensor], verdict: str
    ) -> None:
        if stream not in self._last and len(self._last) >= MOST_STREAMS:
            if not self._full:
                log.warning("there are more streams than are published; of the others nothing is", most=MOST_STREAMS)
            self._full = True
            return
        now = self._now()
        self._version = max(self._version + 1, int(now))
        about = {
            "model": deployed.name,
            "digest": deployed.digest,
            "method": learner.method,
            "step": learner.step,
            "verdict": verdict,
            "published_at": datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds"),
            "tta_daemon": __version__,
        }
        kept = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        self._writer.offer(Publication(stream, self._version, kept, about))
        self._last[stream] = _Last(learner.method, learner.step, verdict == "source", self._clock())

    def _known(self, stream: str) -> _Last | None:
        """What was last published of the stream, by us or before we began."""
        if stream not in self._last and len(self._last) < MOST_STREAMS:
            for manifest in filter(None, (outlet.latest(stream) for outlet in self._outlets)):
                try:
                    last = _Last(manifest["method"], RESUMED, manifest["verdict"] == "source", -math.inf)
                    self._version = max(self._version, int(manifest["version"]))
                except (KeyError, TypeError, ValueError):
                    continue
                self._last[stream] = last
        return self._last.get(stream)


class _Writer:
    """Writes publications one after the other on a thread of its own; of what waits, the newest of each stream."""

    def __init__(self, outlets: Sequence[Outlet], metrics: "Metrics") -> None:
        self._outlets = outlets
        self._metrics = metrics
        self._lock = Lock()
        self._waiting: dict[str, Publication] = {}
        self._thread: Thread | None = None

    def offer(self, publication: Publication) -> None:
        """Write this when what is being written is written."""
        with self._lock:
            self._waiting[publication.stream] = publication
            if self._thread is None:
                self._thread = Thread(target=self._work, name="publish", daemon=True)
                self._thread.start()

    def close(self, timeout_s: float) -> None:
        """Let what waits be written."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(timeout_s)
        for outlet in self._outlets:
            outlet.close()

    def _work(self) -> None:
        while (publication := self._next()) is not None:
            for outlet in self._outlets:
                self._write(outlet, publication)

    def _next(self) -> Publication | None:
        with self._lock:
            if not self._waiting:
                self._thread = None
                return None
            return self._waiting.pop(next(iter(self._waiting)))

    def _write(self, outlet: Outlet, publication: Publication) -> None:
        reverted = publication.about["verdict"] == "source"
        try:
            outlet.put(publication)
        except PublishError as fault:
            log.warning("not published; trying again with the next state", error=str(fault))
            self._metrics.published("failed", publication.version)
        else:
            self._metrics.published("reverted" if reverted else "published", publication.version)
            log.info("published", version=publication.version, **publication.about)


def verdict_of(learner: "Learner") -> str | None:
    """What the guard says of the learner's state; None where it does not believe it without images of every class."""
    guard = learner.guard
    if guard.settings.mode == "off":
        return UNGUARDED
    believed = guard.settings.mode == "guarded" and guard.serve is not Serve.SOURCE and not guard.balances
    return guard.serve.value if believed else None


def _source(deployed: Deployed, answerer: Answerer) -> dict[str, Tensor]:
    """What the deployed network holds in place of all that may be published."""
    state = deployed.classifier.network.state_dict()
    return {name: state[name] for name in answerer.moving()}


def answerer_of(adapter: Adapter, method: str, setting: str) -> Answerer:
    """The network that answers as the method does. Raises ConfigError, naming ``setting``, where no single one does."""
    answerer = adapter.answerer()
    if answerer is None:
        message = f"the answers of {method} are not those of one network with the deployed one's layers"
        raise ConfigError(setting, message, "docs/serving.md lists the methods for which they are")
    return answerer
