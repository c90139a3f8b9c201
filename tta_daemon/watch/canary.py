"""Labeled source images that the adapted model answers now and then: what it has forgotten shows here first."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from tta_daemon.watch.blocks import Saved

FORGOTTEN = 0.5
"""Of what a newborn adapter answers right, what one that still knows its task answers right too."""

FEWEST = 16
"""Right answers of a newborn one from which on that says something."""


class Recall(NamedTuple):
    """Labeled source images that an adapter answers right, and that a newborn one does."""

    adapted: int
    newborn: int

    @property
    def forgotten(self) -> bool:
        """Whether the task itself was lost, which no drift excuses."""
        return self.newborn >= FEWEST and self.adapted <= FORGOTTEN * self.newborn


class Canary:
    """Scores a batch of canary images every so many batches, in turns, until all have been scored.

    Args:
        images: uint8 M x 3 x H x W.
        labels: M.
        batch: images scored at a time; batch statistics want as many as in production.
        every: batches between two turns.
    """

    def __init__(self, images: Tensor, labels: Tensor, batch: int = 64, every: int = 32) -> None:
        turns = max(1, len(labels) // batch)
        self._turns = [(images[i::turns], labels[i::turns]) for i in range(turns)]
        self.every = every
        self._right = torch.full((turns,), -1, dtype=torch.int64)
        self._batches = 0
        self._turn = 0

    def see(self, predict: Callable[[Tensor], Tensor]) -> bool:
        """Count a batch of the stream; score where it is time. True where something was scored."""
        self._batches += 1
        if self._batches % self.every:
            return False
        images, labels = self._turns[self._turn]
        said = predict(images.float() / 255).argmax(1).cpu()
        self._right[self._turn] = (said == labels).sum()
        self._turn = (self._turn + 1) % len(self._turns)
        return True

    @property
    def images(self) -> int:
        """Canary images scored, the last turn of each."""
        return sum(
            len(labels) for (_, labels), right in zip(self._turns, self._right.tolist(), strict=True) if right >= 0
        )

    @property
    def accuracy(self) -> float | None:
        """Share answered right, the last turn of each; None before the first."""
        right = self._right[self._right >= 0]
        return float(right.sum()) / self.images if len(right) else None

    def forget(self) -> None:
        """Another method or a rewound one answers: its score is its own."""
        self._right.fill_(-1)

    def dump(self) -> Saved:
        """Everything that moves."""
        return {"right": self._right.clone(), "at": torch.tensor([self._batches, self._turn])}

    def load(self, saved: Saved) -> None:
        """Go on where ``saved`` was taken."""
        if saved["right"].shape == self._right.shape:
            self._right = saved["right"].clone()
            self._batches, self._turn = saved["at"].tolist()
