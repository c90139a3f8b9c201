"""What estimates of accuracy are read from, counted over the window: shares of certain, agreeing, steady answers."""

import math

import torch
from torch import Tensor

from adapters.parts.objectives import entropy
from tta_daemon.watch.blocks import Blocks
from tta_daemon.watch.view import Head, SourceView

BINS = 10
"""Of confidence."""

PASSES = 10
"""With dropout."""


class Tallies:
    """Sums from which every estimate is read, over the newest blocks.

    Of each watched batch: images, ATC, confidence, its bins; then images that were adapted to, agreement; then
    images with features, dropout disagreement, and the sum of dropout answers.
    """

    def __init__(self, threshold: float, edges: Tensor, classes: int, block: int, window: int) -> None:
        self._threshold, self._edges = threshold, edges
        self.classes = classes
        self.blocks = Blocks(7 + BINS + classes, block, max(1, window // block))

    def see(self, view: SourceView, adapted: Tensor | None, head: Head | None) -> None:
        """Count a batch in."""
        self.blocks.add(self.sums(view, adapted, head), len(view))

    def sums(self, view: SourceView, adapted: Tensor | None, head: Head | None) -> Tensor:
        """One row of sums over a batch."""
        confidence = view.logits.softmax(1).amax(1)
        certain = (entropy(view.logits) <= self._threshold).sum()
        place = torch.bucketize(confidence.double(), self._edges)
        row = [
            torch.tensor([len(view), float(certain), float(confidence.sum())]),
            torch.bincount(place, minlength=BINS),
        ]
        agreeing = 0 if adapted is None else int((adapted.argmax(1) == view.logits.argmax(1)).sum())
        row.append(torch.tensor([0 if adapted is None else len(view), agreeing]))
        if adapted is None or head is None:
            row.append(torch.zeros(2 + self.classes))
        else:
            disagreeing, answers = dropped_out(head, adapted)
            row += [torch.tensor([len(view), disagreeing]), answers]
        return torch.cat([part.double() for part in row])

    def shares(self) -> dict[str, float]:
        """What the estimates are functions of: counts of images, and shares of them."""
        newest = len(self.blocks)
        return shares_of(self.blocks.total()) if newest else {"images": 0.0, "adapted": 0.0, "heads": 0.0}


def shares_of(sums: Tensor) -> dict[str, float]:
    """The shares in a row of sums of `Tallies`."""
    images, certain, confidence = sums[:3].tolist()
    adapted, agreeing, heads, disagreeing = sums[3 + BINS : 7 + BINS].tolist()
    answers = sums[7 + BINS :] / max(1.0, heads)
    spread = float(-(answers * answers.clamp(min=1e-12).log()).sum()) / math.log(max(2, answers.numel()))
    return {
        "images": images, "certain": certain / max(1.0, images), "confidence": confidence / max(1.0, images),
        "adapted": adapted, "agreement": agreeing / max(1.0, adapted), "heads": heads,
        "disagreement": disagreeing / max(1.0, heads), "spread": spread,
        **{f"bin{i}": float(n) / max(1.0, images) for i, n in enumerate(sums[3 : 3 + BINS])},
    }  # fmt: skip


@torch.no_grad()
def dropped_out(head: Head, adapted: Tensor) -> tuple[float, Tensor]:
    """Images on which a head with dropout disagrees, a mean over passes; and the sum of its answers, C (AETTA).

    Masks are the same for the same number of images: an estimate is a function of what it is about.
    """
    rate = 0.4 if adapted.size(1) <= 10 else 0.3 if adapted.size(1) <= 100 else 0.2  # noqa: PLR2004 - the paper's numbers
    features, said = head.features.float(), adapted.argmax(1)
    generator = torch.Generator(features.device).manual_seed(len(features))
    disagreeing, answers = 0.0, torch.zeros(adapted.size(1), dtype=torch.float64)
    for _ in range(PASSES):
        mask = torch.rand(features.shape, generator=generator, device=features.device) >= rate
        logits = head.logits((features * mask / (1.0 - rate)).to(head.weight))
        disagreeing += float((logits.argmax(1) != said).sum()) / PASSES
        answers += logits.float().softmax(1).sum(0).double().cpu() / PASSES
    return disagreeing, answers
