"""A category-balanced memory of images that prefers the recent and the certain (RoTTA, section 3.3: CSTU)."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adapters.parts.objectives import entropy


class MemoryBank(nn.Module):
    """At most ``capacity`` images, oldest first, and of no class more than its equal share, rounded up.

    Images stay on the device of ``like``; what is known of them is kept on the host, where places are given out.

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

    def __init__(self, capacity: int, num_classes: int, like: Tensor) -> None:
        super().__init__()
        self.capacity = capacity
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

    def admit(
        self, images: Tensor, logits: Tensor, every: int, age_weight: float = 1.0, entropy_weight: float = 1.0
    ) -> Iterator[Tensor]:
        """Let images, N x 3 x H x W, come by one after the other, and pause whenever another ``every`` have.

        Those that are not finite, or whose logits are not, do not count as having come by.

        Args:
            images: in the order in which they came.
            logits: what they are taken for, N x C.
            every: images between two pauses.
            age_weight: what makes an image the next to go: its age,
            entropy_weight: and its uncertainty.

        Yields:
            The images held then.
        """
        sound = torch.isfinite(logits).all(1) & torch.isfinite(images).flatten(1).all(1)
        facts = torch.stack([sound.double(), logits.argmax(1).double(), entropy(logits).double()])
        known = facts.cpu().numpy()  # the one wait for the device
        usable = np.flatnonzero(known[0])
        while len(usable):
            now = usable[: every - int(self.seen) % every]
            self._give_places(images[torch.from_numpy(now)], known[1:, now], (age_weight, entropy_weight))
            usable = usable[len(now) :]
            if int(self.seen) % every == 0:
                yield self.images

    def _give_places(self, images: Tensor, known: NDArray[np.float64], weights: tuple[float, float]) -> None:
        """Decide for each image in turn, and move all of them at once."""
        before = len(self.labels)
        labels = np.concatenate([self.labels.numpy(), known[0].astype(np.int64)])
        entropies = np.concatenate([self.entropies.numpy(), known[1]])
        arrivals = np.concatenate([self.arrivals.numpy(), int(self.seen) + np.arange(len(images))])
        held = np.arange(len(labels)) < before
        for new in range(before, len(labels)):
            ages = arrivals[new] - arrivals
            scores = weights[0] / (1.0 + np.exp(-ages / self.capacity))
            scores += weights[1] * entropies / math.log(self.num_classes)
            rivals = self._rivals(labels, held, labels[new])
            if len(rivals) == 0:
                held[new] = True
                continue
            worst = rivals[np.lexsort((arrivals[rivals], labels[rivals], scores[rivals]))[-1]]
            if scores[worst] > scores[new]:
                held[worst], held[new] = False, True
        places = torch.from_numpy(np.flatnonzero(held))
        images = images.to(self.images)
        self.images = torch.cat([self.images, images])[places] if before else images[places]
        self.labels = torch.from_numpy(labels)[places]
        self.entropies = torch.from_numpy(entropies)[places]
        self.arrivals = torch.from_numpy(arrivals)[places]
        self.seen += len(images)

    def _rivals(self, labels: NDArray[np.int64], held: NDArray[np.bool_], label: np.int64) -> NDArray[np.int64]:
        """Who of those held might make room for an image of this class; nobody where there is room."""
        counts = np.bincount(labels[held], minlength=self.num_classes)
        if counts[label] >= self.capacity / self.num_classes:
            return np.flatnonzero(held & (labels == label))
        if counts.sum() < self.capacity:
            return np.empty(0, np.int64)
        return np.flatnonzero(held & (counts[labels] == counts.max()))
