"""What is known of a stream wherever its state is: a few numbers, for whoever looks after a thousand of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import nlargest, nsmallest

import torch
from torch import Tensor

from tta_daemon.answered import Answered
from tta_daemon.life import Life
from tta_daemon.stream.records import Stream
from tta_daemon.watch.accuracy import Scored
from tta_daemon.watch.guard import Serve

MEMORY_IMAGES = 1000.0
"""About how many labeled images an accuracy looks back on."""

STAYS = 0.9
"""Share of an impression that stays at each batch."""


@dataclass(slots=True)
class Labeled:
    """Labeled images and how many were answered right, older ones counting less and less."""

    images: float = 0.0
    adapted: float = 0.0
    served: float = 0.0
    judged: float = 0.0
    source: float = 0.0

    def add(self, scored: Scored) -> None:
        """Count one scored answer."""
        stays = max(0.0, 1.0 - scored.images / MEMORY_IMAGES)
        served = scored.adapted_right if scored.served_right is None else scored.served_right
        self.images = self.images * stays + scored.images
        self.adapted = self.adapted * stays + scored.adapted_right
        self.served = self.served * stays + served
        self.judged = self.judged * stays + (0 if scored.source_right is None else scored.images)
        self.source = self.source * stays + (scored.source_right or 0)


@dataclass(slots=True)
class Card:
    """One stream, for the table of all.

    Attributes:
        seen_at: wall clock of its last batch.
        records, images: answered by this process.
        step: of its adapter.
        serve: whose answers leave.
        gain: how much more its adapted answers tell than the source's, as the guard sees it; None: not known yet.
        impression: what the source sees of its images, newer ones counting more; None where nobody asked for it.
        drift: its largest drift score in units of that score's threshold; None where nothing is known of the source.
    """

    seen_at: float
    records: int = 0
    images: int = 0
    step: int = 0
    serve: Serve | None = None
    gain: float | None = None
    drift: float | None = None
    drifted: bool = False
    labeled: Labeled = field(default_factory=Labeled)
    impression: Tensor | None = None

    def answered(self, records: int, answered: Answered, life: Life, step: int, now: float) -> None:
        """A batch's answers have left."""
        self.seen_at, self.step, self.serve = now, step, answered.serve
        self.records += records
        self.images += len(answered.logits)
        guard = life.guard
        if guard.source.recent.images:
            self.gain = guard.adapted.gain(guard.source)
        if life.watch is not None and (scores := life.watch.drift.scores):
            self.drift = max(score.score / score.threshold for score in scores.values() if score.threshold > 0)
            self.drifted = any(score.drifted for score in scores.values())

    def seen(self, impression: Tensor) -> None:
        """Remember what its images are like."""
        self.impression = impression if self.impression is None else torch.lerp(impression, self.impression, STAYS)

    @property
    def accuracy(self) -> float | None:
        """Share of the labeled images that were answered right."""
        return self.labeled.served / self.labeled.images if self.labeled.images else None

    def row(self, now: float) -> dict[str, object]:
        """Ready for JSON."""
        said = self.labeled
        return {
            "idle_s": round(now - self.seen_at, 1),
            "records": self.records,
            "images": self.images,
            "step": self.step,
            "serve": self.serve,
            "gain": _short(self.gain),
            "drift": _short(self.drift),
            "drifted": self.drifted,
            "labeled_images": round(said.images),
            "accuracy": {
                "served": _short(self.accuracy),
                "adapted": _short(said.adapted / said.images if said.images else None),
                "source": _short(said.source / said.judged if said.judged else None),
            },
        }


def worst(
    cards: Sequence[tuple[Stream, Card]], most: int
) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """The streams of least gain, of largest drift and of lowest accuracy, with that number; no more than ``most``."""
    gain = nsmallest(most, ((card.gain, stream.name) for stream, card in cards if card.gain is not None))
    drift = nlargest(most, ((card.drift, stream.name) for stream, card in cards if card.drift is not None))
    judged = ((card.accuracy, stream.name) for stream, card in cards)
    accuracy = nsmallest(most, ((share, name) for share, name in judged if share is not None))
    first, second, third = ({name: value for value, name in found} for found in (gain, drift, accuracy))
    return first, second, third


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
