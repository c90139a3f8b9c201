"""A glance at a batch: whether its images still look like the ones before. No network is asked."""

import torch
from torch import Tensor

from tta_daemon.watch.blocks import Saved

FEWEST = 16
"""Images that must have been seen before anything can differ from them."""

SIGMAS = 4.0
"""Standard errors by which the mean of a batch must leave that of the images before."""

LOOKS = 4
"""Numbers that are taken of an image."""


class Glance:
    """Remembers how images looked since they last changed: brightness, contrast, sharpness, and how sure answers were.

    Bounded: sums of four numbers.
    """

    def __init__(self) -> None:
        self._seen = torch.zeros(1 + 2 * LOOKS, dtype=torch.float64)  # how many, their mean, their squared departures

    def changed(self, images: Tensor, logits: Tensor) -> bool:
        """Count a batch in: float32, N x 3 x H x W, and what was answered, N x C. Where it differs, begin anew."""
        if not len(images):
            return False
        found = looks(images, logits)
        if not bool(torch.isfinite(found).all()):
            return True  # nothing to remember
        count, mean, spread = len(found), found.mean(0), (found - found.mean(0)).square().sum(0)
        before, mean_before, spread_before = float(self._seen[0]), self._seen[1 : 1 + LOOKS], self._seen[1 + LOOKS :]
        error = ((spread_before + spread) / max(1.0, before + count - 2) * (1 / count + 1 / max(1.0, before))).sqrt()
        differs = before >= FEWEST and bool(((mean - mean_before).abs() > SIGMAS * error + 1e-6).any())
        if differs:
            before, mean_before, spread_before = 0.0, torch.zeros_like(mean), torch.zeros_like(spread)
        every, apart = before + count, mean - mean_before
        spread = spread_before + spread + apart.square() * (before * count / every)
        count_of_all = torch.tensor([every], dtype=torch.float64)
        self._seen = torch.cat((count_of_all, mean_before + apart * (count / every), spread))
        return differs

    def forget(self) -> None:
        """Begin anew."""
        self._seen.zero_()

    def dump(self) -> Saved:
        """Everything that moves."""
        return {"seen": self._seen.clone()}

    def load(self, saved: Saved) -> None:
        """Go on where ``saved`` was taken.

        Raises:
            KeyError, ValueError: it is none of this.
        """
        if saved["seen"].shape != self._seen.shape:
            raise ValueError("the saved glance is of other numbers")
        self._seen = saved["seen"].double().clone()


def looks(images: Tensor, logits: Tensor) -> Tensor:
    """Brightness, contrast and sharpness of each image, and the probability of its answer: N x 4, float64."""
    gray = images.detach().mean(1)
    rows = [gray.mean((1, 2)), gray.std((1, 2), correction=0), gray.diff(dim=2).abs().mean((1, 2))]
    sure = logits.detach().softmax(1).amax(1).to(gray.dtype)
    return torch.stack([*rows, sure], 1).double().cpu()
