"""All watching in one place: what the frozen model sees of the stream becomes drift, estimated accuracy and events."""

import math
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import structlog
import torch
from torch import Tensor

from tta_daemon.model.load import Deployed
from tta_daemon.watch.accuracy import Scored
from tta_daemon.watch.blocks import Saved
from tta_daemon.watch.canary import Canary
from tta_daemon.watch.correction import Correction, corrected
from tta_daemon.watch.drift.alarms import Alarms
from tta_daemon.watch.drift.detectors import Drift
from tta_daemon.watch.drift.null import STATISTICS
from tta_daemon.watch.drift.scores import ENTROPY
from tta_daemon.watch.estimates import Estimate, Pair, estimates
from tta_daemon.watch.events import Event, Happening
from tta_daemon.watch.knowledge import Knowledge
from tta_daemon.watch.metrics import Detector, Metrics
from tta_daemon.watch.tallies import Tallies
from tta_daemon.watch.view import Head, SourceView

HISTORY = 4096
"""Blocks whose estimates are remembered until labels say how good they were."""


log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Said:
    """What was estimated at some time."""

    at: float
    values: Mapping[Pair, float]


def watch_of(deployed: Deployed) -> "Watch | None":
    """Watches by what is known of the source; nobody where nothing is."""
    known = deployed.known
    if known is None:
        return None
    return Watch(known, Canary(*known.canary, batch=known.manifest.batch) if known.canary is not None else None)


class Watch:
    """Sees every watched batch, after its answers have left.

    Args:
        knowledge: of the source.
        canary: labeled images to score the adapted model on; none where absent.
    """

    def __init__(self, knowledge: Knowledge, canary: Canary | None = None) -> None:
        block, window = knowledge.manifest.block, knowledge.manifest.window
        calibration = knowledge.calibration
        self.knowledge = knowledge
        self.canary = canary
        self.drift = Drift(knowledge.profile, knowledge.null, block, window)
        self.alarms = {name: Alarms() for name in (STATISTICS, ENTROPY)}
        self.tallies = Tallies(calibration.threshold, calibration.edges, knowledge.manifest.classes, block, window)
        self.correction = Correction()
        self._history: deque[Said] = deque(maxlen=HISTORY)

    def see(self, view: SourceView, adapted: Tensor | None, now: float, head: Head | None = None) -> list[Event]:
        """Count a batch in.

        Args:
            view: what the frozen model made of it.
            adapted: the logits of its answers, N x C; None where the source answered.
            now: any clock that never runs backwards; label delays are taken from it.
            head: the features behind the answers, where they could be had.
        """
        finite = bool(torch.isfinite(view.logits).all()) and (adapted is None or bool(torch.isfinite(adapted).all()))
        if not finite or not len(view):
            return []
        blocks = self.drift.blocks_seen
        events = self.drift.see(view, now)
        self.tallies.see(view, adapted, head)
        if self.drift.blocks_seen == blocks:
            return events
        if self.drift.left_domain:
            self.tallies.blocks.keep_newest()
            self.correction.doubt()
        events += self._alarms(now)
        values = {pair: e.value for pair, e in self._uncorrected().items() if not math.isnan(e.value)}
        self._history.append(Said(now, values))
        return events

    def estimates(self) -> dict[Pair, Estimate]:
        """Every accuracy that can be estimated now, corrected by what labels have said."""
        return {pair: corrected(estimate, self.correction.of(pair)) for pair, estimate in self._uncorrected().items()}

    def labeled(self, scored: Scored, now: float) -> None:
        """Labels came for an answer given ``scored.delay_s`` ago: how good were the estimates of that time?"""
        answered = now - scored.delay_s
        said = next((said for said in reversed(self._history) if said.at <= answered), None)
        if said is not None:
            right = {"adapted": float(scored.adapted_right)}
            if scored.source_right is not None:
                right["source"] = float(scored.source_right)
            self.correction.labeled(said.values, right, scored.images)

    def ask_canary(self, predict: Callable[[Tensor], Tensor]) -> None:
        """Have the canary images answered, where it is their time. A method that cannot is found out by the stream."""
        if self.canary is not None:
            with suppress(RuntimeError, ValueError):
                self.canary.see(predict)

    def tell(self, metrics: Metrics, events: list[Event]) -> None:
        """Export how things stand, and what has happened."""
        for name, score in self.drift.scores.items():
            metrics.drifted(Detector(name), score.score, score.threshold)
        for depth, value in self.drift.depths.items():
            metrics.drifted_at(depth, value)
        for detector in Alarms.NAMES:
            raised = max(alarms.raised(detector) for alarms in self.alarms.values())
            metrics.drifted(Detector(detector), float(raised), 0.5)
        for (estimator, model), estimate in self.estimates().items():
            metrics.estimated(estimator, model, estimate)
        if self.canary is not None and self.canary.accuracy is not None:
            metrics.canary(self.canary.accuracy, self.canary.images)
        for event in events:
            metrics.happened(event.kind)

    def status(self) -> dict[str, object]:
        """How things stand, for a person."""
        estimates = {f"{estimator}/{model}": {"value": e.value, "low": e.low, "high": e.high, "doubt": e.doubt}
                     for (estimator, model), e in self.estimates().items()}  # fmt: skip
        drift = {name: {"score": s.score, "threshold": s.threshold} for name, s in self.drift.scores.items()}
        kind = "covariate shift" if self.drift.covariate else "label shift" if self.drift.labels else "none"
        canary = self.canary.accuracy if self.canary is not None else None
        return {"images": self.drift.seen, "shift": kind, "drift": drift, "estimates": estimates, "canary": canary}

    def dump(self) -> Saved:
        """Everything that moves, for the checkpoint."""
        parts: dict[str, Saved] = {"drift": self.drift.dump(), "correction": self.correction.dump(),
                                   "tallies": self.tallies.blocks.dump()}  # fmt: skip
        parts |= {f"alarms.{name}": alarms.dump() for name, alarms in self.alarms.items()}
        if self.canary is not None:
            parts["canary"] = self.canary.dump()
        return {f"{part}/{name}": tensor for part, saved in parts.items() for name, tensor in saved.items()}

    def load(self, saved: Saved) -> None:
        """Go on where ``saved`` was taken; labels of answers given before are then of no use to the estimates.

        Raises:
            ValueError: it is of another prior.
        """

        def part(name: str) -> dict[str, Tensor]:
            return {key.removeprefix(f"{name}/"): t for key, t in saved.items() if key.startswith(f"{name}/")}

        self.drift.load(part("drift"))
        self.correction.load(part("correction"))
        self.tallies.blocks.load(part("tallies"))
        for name, alarms in self.alarms.items():
            alarms.load(part(f"alarms.{name}"))
        if self.canary is not None and (canary := part("canary")):
            self.canary.load(canary)

    def resume(self, saved: Saved) -> None:
        """Go on where ``saved`` was taken, or anew where it is of another prior: to watch anew does no harm."""
        try:
            self.load(saved)
        except (KeyError, ValueError, RuntimeError) as fault:
            log.warning("watching begins anew: the saved state does not fit this prior", error=str(fault))

    def _uncorrected(self) -> dict[Pair, Estimate]:
        classes = self.knowledge.manifest.classes
        return estimates(self.knowledge.calibration, self.tallies.shares(), classes, drifted=self.drift.covariate)

    def _alarms(self, now: float) -> list[Event]:
        events = []
        for name, alarms in self.alarms.items():
            value = self.drift.newest[name]
            if raised := alarms.see(value):
                events.append(Event(Happening.ALARM, now, self.drift.seen, dict.fromkeys(raised, value)))
        return events
