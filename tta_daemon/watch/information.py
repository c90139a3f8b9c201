"""How much answers tell about the images: what the guard goes by where there are no labels."""

import math
from collections import deque
from typing import NamedTuple

import torch
from torch import Tensor

from adapters.parts.objectives import entropy
from tta_daemon.watch.blocks import Saved


class Told(NamedTuple):
    """What the answers to a batch add up to: probabilities by class, entropy in nats, confidence, images."""

    classes: Tensor
    entropy: float
    confidence: float
    images: int


def told(logits: Tensor) -> Told | None:
    """Sums over logits, N x C; None where one of them is not finite."""
    if not len(logits) or not bool(torch.isfinite(logits).all()):
        return None
    logits = logits.detach().double()
    p = logits.softmax(1)
    return Told(p.sum(0).cpu(), float(entropy(logits).sum()), float(p.amax(1).sum()), len(p))


PARTS = 8
"""Parts that a window is made of where batches are small: so it is bounded on a stream of single images."""

ROWS = 2 * PARTS + 2
"""Parts that are kept at most: any two neighbors are together more than a part of a window, or they would be one."""


class Information:
    """Mutual information of image and answer over the newest images, as a share of the most that there can be.

    I = H(mean answer) - mean H(answer) (Bridle et al. 1991; Hu et al. 2017): high where each answer is sure and
    together they are diverse. Answers that all come out the same tell nothing, however sure they are.
    """

    def __init__(self) -> None:
        self._batches: deque[Told] = deque()
        self._rows = torch.zeros(ROWS, 0, dtype=torch.float64)  # theirs, in turns: one allocation for all
        self._row = 0
        self.images = 0

    def add(self, batch: Told, window: int) -> None:
        """Count a batch in; the oldest leave once ``window`` images are there without them."""
        last = self._batches[-1].images if self._batches else window
        self._keep(batch, join=(last + batch.images) * PARTS <= window)
        while self.images - self._batches[0].images >= window:
            self.images -= self._batches.popleft().images

    def forget(self) -> None:
        """Begin anew."""
        self._batches.clear()
        self.images = 0

    def dump(self) -> Saved:
        """Everything that moves."""
        numbers = [[batch.entropy, batch.confidence, batch.images] for batch in self._batches]
        classes = torch.stack([batch.classes for batch in self._batches]) if numbers else torch.zeros(0, 0)
        return {"classes": classes, "numbers": torch.tensor(numbers, dtype=torch.float64)}

    def load(self, saved: Saved) -> None:
        """Go on where ``saved`` was taken."""
        self.forget()
        for classes, (uncertainty, confidence, images) in zip(
            saved["classes"], saved["numbers"].reshape(-1, 3).tolist(), strict=True
        ):
            self._keep(Told(classes, uncertainty, confidence, int(images)), join=False)

    def _keep(self, batch: Told, *, join: bool) -> None:
        """Remember a batch by itself, or with the one before it."""
        if self._rows.shape[1:] != batch.classes.shape:
            self.forget()
            self._rows = torch.zeros(ROWS, *batch.classes.shape, dtype=torch.float64)
        if self._batches and (join or len(self._batches) == ROWS):
            self._batches.append(_joined(self._batches.pop(), batch))
        else:
            self._row = (self._row + 1) % ROWS
            self._batches.append(batch._replace(classes=self._rows[self._row].copy_(batch.classes)))
        self.images += batch.images

    @property
    def information(self) -> float:
        """I / log(min(C, images)), about 0 to 1."""
        if self.images < 2:  # noqa: PLR2004 - of one answer nothing can be told
            return 0.0
        mean = torch.stack([batch.classes for batch in self._batches]).sum(0) / self.images
        most = math.log(min(len(mean), self.images))
        if not most:  # there is one class
            return 0.0
        marginal = float(-torch.special.xlogy(mean, mean).sum())
        return (marginal - sum(batch.entropy for batch in self._batches) / self.images) / most

    @property
    def confidence(self) -> float:
        """Mean probability of the answers."""
        return sum(batch.confidence for batch in self._batches) / max(1, self.images)


def _joined(one: Told, other: Told) -> Told:
    """The sums of both, in the memory of the first."""
    classes = one.classes.add_(other.classes)
    return Told(classes, one.entropy + other.entropy, one.confidence + other.confidence, one.images + other.images)
