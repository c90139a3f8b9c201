"""A category-balanced memory of images that prefers the recent and the certain (RoTTA, section 3.3: CSTU)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adapters.parts.objectives import entropy


@dataclass(frozen=True, slots=True)
class Keeping:
    """How many images are kept, and what makes one the next to go: age times a weight, entropy times a weight."""

    capacity: int
    age_weight: float = 1.0
    entropy_weight: float = 1.0

    def scores(self, ages: NDArray[np.int64], entropies: NDArray[np.float64], classes: int) -> NDArray[np.float64]:
        """The higher, the sooner it goes (RoTTA, eq. 7)."""
        timeliness = 1.0 / (1.0 + np.exp(-ages / self.capacity))
        return self.age_weight * timeliness + self.entropy_weight * entropies / math.log(classes)


class MemoryBank(nn.Module):
    """Images, oldest first; of no class more than its equal share, rounded up.

    They stay on the device of ``like``; what is known of them is kept on the host, where places are given out.

    Attributes:
        images: K x 3 x H x W.
        labels: the class that each was taken for.
        entropies: how uncertain that was, in nats.
        arrivals: how many images had come by before it.
        seen: how many have come by, held or not.
    """

    images: Tensor
    labels: Tensor
    entropies: Tensor
    arrivals: Tensor
    seen: Tensor

    def __init__(self, num_classes: int, like: Tensor) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.register_buffer("images", like.new_empty(0, 3, 0, 0))
        self.register_buffer("labels", torch.empty(0, dtype=torch.int64))
        self.register_buffer("entropies", torch.empty(0, dtype=torch.float64))
        self.register_buffer("arrivals", torch.empty(0, dtype=torch.int64))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    @property
    def ages(self) -> Tensor:
        """For each image, how many have come by since, itself included."""
        return self.seen - self.arrivals

    def admit(self, images: Tensor, logits: Tensor, every: int, keeping: Keeping) -> Iterator[Tensor]:
        """Let images, N x 3 x H x W, come by one after the other, and pause whenever another ``every`` have.

        Those that are not finite, or whose logits, N x C, are not, do not count as having come by.

        Yields:
            The images held then.
        """
        sound = torch.isfinite(logits).all(1) & torch.isfinite(images).flatten(1).all(1)
        facts = torch.stack([sound.double(), logits.argmax(1).double(), entropy(logits).double()])
        known = facts.cpu().numpy()  # the one wait for the device
        usable = np.flatnonzero(known[0])
        while len(usable):
            now = usable[: every - int(self.seen) % every]
            self._give_places(images[torch.from_numpy(now)], known[1:, now], keeping)
            usable = usable[len(now) :]
            if int(self.seen) % every == 0:
                yield self.images

    def _give_places(self, images: Tensor, known: NDArray[np.float64], keeping: Keeping) -> None:
        """Decide for each image in turn, and move all of them at once."""
        before = len(self.labels)
        labels = np.concatenate([self.labels.numpy(), known[0].astype(np.int64)])
        entropies = np.concatenate([self.entropies.numpy(), known[1]])
        arrivals = np.concatenate([self.arrivals.numpy(), int(self.seen) + np.arange(len(images))])
        held = np.arange(len(labels)) < before
        for new in range(before, len(labels)):
            scores = keeping.scores(arrivals[new] - arrivals, entropies, self.num_classes)
            order = np.lexsort((arrivals, labels, scores))  # the last goes first
            while len(surplus := self._surplus(labels[held], keeping.capacity)):  # the capacity was tuned down
                held[next(i for i in order[::-1] if held[i] and labels[i] in surplus)] = False
            rivals = held & np.isin(labels, self._rivals(labels[held], labels[new], keeping.capacity))
            if not rivals.any():
                held[new] = True
                continue
            worst = order[rivals[order]][-1]
            if scores[worst] > scores[new]:
                held[worst], held[new] = False, True
        places = torch.from_numpy(np.flatnonzero(held))
        images = images.to(self.images)
        self.images = torch.cat([self.images, images])[places] if before else images[places]
        self.labels = torch.from_numpy(labels)[places]
        self.entropies = torch.from_numpy(entropies)[places]
        self.arrivals = torch.from_numpy(arrivals)[places]
        self.seen += len(images)

    def _rivals(self, held: NDArray[np.int64], label: np.int64, capacity: int) -> NDArray[np.int64]:
        """The classes that might make room for an image of this one, by the labels held; none where there is room."""
        counts = np.bincount(held, minlength=self.num_classes)
        if counts[label] >= capacity / self.num_classes:
            return np.array([label])
        return np.flatnonzero(counts == counts.max()) if counts.sum() >= capacity else np.empty(0, np.int64)

    def _surplus(self, held: NDArray[np.int64], capacity: int) -> NDArray[np.int64]:
        """The largest classes, where there are too many images, of all or of them."""
        counts = np.bincount(held, minlength=self.num_classes)
        fits = counts.sum() <= capacity and counts.max() <= math.ceil(capacity / self.num_classes)
        return np.empty(0, np.int64) if fits else np.flatnonzero(counts == counts.max())
