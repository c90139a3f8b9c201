"""The newest images of each class, equally many of each as far as there are as many."""

import torch
from torch import Tensor

from tta_daemon.watch.blocks import Saved

MOST = 100
"""Images that are kept."""


class Balanced:
    """Where labels come in runs, what a batch shows is one class; beside it, these images show what else there is.

    A memory balanced by class as RoTTA's is (Yuan et al. 2023, section 3.3), by predicted classes and age alone.
    Bounded: `MOST` images, 8 bits a channel.
    """

    def __init__(self) -> None:
        self._images = torch.zeros(0, 3, 0, 0, dtype=torch.uint8)  # oldest first
        self._classes = torch.zeros(0, dtype=torch.int64)

    def __len__(self) -> int:
        """How many images."""
        return len(self._classes)

    def add(self, images: Tensor, classes: Tensor) -> None:
        """Count images in, N x 3 x H x W in [0, 1]; of whichever class has most then, the oldest leave."""
        newest = (images * 255).round().clamp(0, 255).to(torch.uint8)
        if newest.shape[1:] != self._images.shape[1:]:
            self._images, self._classes = newest[:0], classes[:0]
        kept = torch.cat((self._classes.to(classes), classes))
        behind = _newer_of_their_class(kept)
        chosen = behind.argsort(stable=True)[:MOST].sort().values if len(kept) > MOST else torch.arange(len(kept))
        chosen = chosen.to(kept.device)
        self._images, self._classes = torch.cat((self._images.to(newest), newest))[chosen], kept[chosen]

    def draw(self, count: int) -> Tensor:
        """The newest of each class in turn, at most so many: float32, N x 3 x H x W in [0, 1]."""
        chosen = _newer_of_their_class(self._classes).argsort(stable=True)[:count]
        return self._images[chosen].float() / 255

    def forget(self) -> None:
        """Begin anew."""
        self._images, self._classes = self._images[:0].clone(), self._classes[:0].clone()

    def dump(self) -> Saved:
        """Everything that moves."""
        return {"images": self._images.clone(), "classes": self._classes.clone()}

    def load(self, saved: Saved) -> None:
        """Go on where ``saved`` was taken.

        Raises:
            KeyError, ValueError: it is none of this.
        """
        images, classes = saved["images"], saved["classes"]
        if images.dim() != 4 or len(images) != len(classes) or len(classes) > MOST:  # noqa: PLR2004 - N x 3 x H x W
            raise ValueError("the saved memory is not of images and their classes")
        self._images, self._classes = images.to(torch.uint8).clone(), classes.to(torch.int64).clone()


def _newer_of_their_class(classes: Tensor) -> Tensor:
    """For each image, oldest first, how many newer ones there are of its class."""
    by_class, order = classes.flip(0).sort(stable=True)
    newer = torch.empty_like(order)
    newer[order] = torch.arange(len(classes), device=classes.device) - torch.searchsorted(by_class, by_class)
    return newer.flip(0)
