"""What the source looks like class by class, so that other proportions of classes are not taken for another world.

Everything watched is a mean over images of a row of numbers: moments at norm layers, entropy, projected features. From
each row the mean of its predicted class is taken away. What is left has mean zero on the source in whatever
proportions the classes come: a change of labels cancels, a change of images does not.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.parts.objectives import entropy
from tta_daemon.watch.view import SourceView

DIRECTIONS = 32
"""Directions in feature space that are watched."""

SHRINK = 4.0
"""Images that the mean over all classes counts as in the mean of each: classes seen rarely lean on the others."""


@dataclass(frozen=True, slots=True)
class Profile:
    """The source, in columns: P moments, one entropy, d projected features.

    Attributes:
        center: mean row of each predicted class, C x (P + 1 + d).
        spread: standard deviation within classes, P + 1 + d.
        counts: images of each predicted class, C.
        projection: D x d; within classes the projected features have unit covariance.
        depth: which quarter of the network each moment comes from, P.
    """

    center: Tensor
    spread: Tensor
    counts: Tensor
    projection: Tensor
    depth: Tensor

    @property
    def columns(self) -> int:
        """P + 1 + d."""
        return self.spread.numel()

    @property
    def directions(self) -> int:
        """The d of the projected features."""
        return self.projection.size(1)

    @property
    def width(self) -> int:
        """Numbers in a row of sums."""
        return self.columns + self.counts.numel() + self.directions**2

    def residuals(self, view: SourceView) -> Tensor:
        """How far each image is from its predicted class, in standard deviations, N x (P + 1 + d)."""
        return (rows(view, self.projection) - self.center[view.logits.argmax(1)]) / self.spread

    def sums(self, view: SourceView) -> Tensor:
        """One row of sums over a batch: residuals, predicted classes, and products of the projected features."""
        residuals = self.residuals(view)
        classes = torch.bincount(view.logits.argmax(1), minlength=self.counts.numel())
        return self.summed(residuals, classes)

    def summed(self, residuals: Tensor, classes: Tensor) -> Tensor:
        """The same from residuals, N x (P + 1 + d), and counts of predicted classes, C."""
        projected = residuals[:, residuals.size(1) - self.directions :]
        return torch.cat((residuals.sum(0), classes.to(residuals), (projected.T @ projected).flatten()))


def rows(view: SourceView, projection: Tensor) -> Tensor:
    """What is watched of each image: moments, entropy, projected features."""
    return torch.cat((view.moments, entropy(view.logits)[:, None], view.features @ projection), 1)


def profile_of(view: SourceView, depth: Tensor, seed: int = 0, unseen: SourceView | None = None) -> Profile:
    """The profile of a source domain.

    Args:
        view: of all its images.
        depth: of `Probe`.
        seed: of the random directions.
        unseen: of the same images as a network sees what it was not trained on; entropy and features are then taken
            from here. Moments never are: a network does not memorize them.
    """
    behind = view if unseen is None else unseen
    projection = _whitening(behind, seed)
    table, wide = rows(view, projection), rows(behind, projection)
    seen = view.moments.size(1)
    center, counts = _class_means(table, view.logits)
    if unseen is not None:
        center[:, seen:] = _class_means(wide, behind.logits)[0][:, seen:]
    away = torch.cat((
        (table - center[view.logits.argmax(1)])[:, :seen], (wide - center[behind.logits.argmax(1)])[:, seen:],
    ), 1)  # fmt: skip
    spread = away.square().mean(0).sqrt()
    return Profile(center, spread.clamp(min=1e-6), counts, projection, depth)


def _class_means(table: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    classes = logits.argmax(1)
    counts = torch.bincount(classes, minlength=logits.size(1)).to(table)
    totals = table.new_zeros(len(counts), table.size(1)).index_add_(0, classes, table)
    mean = table.mean(0)
    return (totals + SHRINK * mean) / (counts + SHRINK)[:, None], counts


def _whitening(view: SourceView, seed: int) -> Tensor:
    """Random directions, D x d, along which features have unit covariance within predicted classes."""
    features, classes = view.features.double(), view.logits.argmax(1)
    width = features.size(1)
    directions = min(DIRECTIONS, width)
    if directions == 0:
        return view.features.new_zeros(0, 0)
    generator = torch.Generator().manual_seed(seed)
    random = torch.linalg.qr(torch.randn(width, directions, generator=generator, dtype=torch.float64))[0]
    projected = features @ random
    away = projected - _class_means(projected, view.logits)[0][classes]
    covariance = away.T @ away / max(1, len(away))
    values, vectors = torch.linalg.eigh(covariance)
    floor = values.amax().clamp(min=1e-12) * 1e-4
    whitened: Tensor = random @ vectors / values.clamp(min=floor).sqrt()
    return whitened.float()
