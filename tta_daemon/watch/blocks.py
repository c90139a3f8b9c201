"""A window counted in images, not in time: sums over its newest blocks."""

from collections.abc import Mapping

import torch
from torch import Tensor

Saved = Mapping[str, Tensor]


class Blocks:
    """Sums over the newest ``most`` blocks of at least ``size`` images each, beside the block that still fills.

    Whatever the size of the batches, noise then depends on the window alone. Bounded: ``most`` + 1 rows.

    >>> blocks = Blocks(width=1, size=4, most=2)
    >>> [blocks.add(torch.ones(1), 2) for _ in range(4)]
    [False, True, False, True]
    >>> blocks.images, blocks.total().tolist()
    (8, [4.0])
    """

    def __init__(self, width: int, size: int, most: int) -> None:
        self.size, self.most = size, most
        self._rows = torch.zeros(0, width, dtype=torch.float64)
        self._counts = torch.zeros(0, dtype=torch.int64)
        self._filling = torch.zeros(width, dtype=torch.float64)
        self._filled = 0

    def add(self, sums: Tensor, images: int) -> bool:
        """Count one batch in; True where that completed a block."""
        self._filling += sums.to(self._filling)
        self._filled += images
        if self._filled < self.size:
            return False
        self._rows = torch.cat((self._rows, self._filling[None]))[-self.most :]
        self._counts = torch.cat((self._counts, torch.tensor([self._filled])))[-self.most :]
        self._filling, self._filled = torch.zeros_like(self._filling), 0
        return True

    def keep_newest(self) -> None:
        """Forget all complete blocks but the newest one: what came before was another domain."""
        self._rows, self._counts = self._rows[-1:], self._counts[-1:]

    def __len__(self) -> int:
        """How many blocks are complete."""
        return len(self._counts)

    @property
    def images(self) -> int:
        """Images in complete blocks."""
        return int(self._counts.sum())

    def total(self) -> Tensor:
        """Sums over all complete blocks."""
        return self._rows.sum(0)

    def newest(self) -> tuple[Tensor, int]:
        """Sums over the newest block, and its images."""
        return self._rows[-1], int(self._counts[-1])

    def before(self) -> tuple[Tensor, int]:
        """Sums over all blocks but the newest, and their images."""
        return self._rows[:-1].sum(0), int(self._counts[:-1].sum())

    def dump(self) -> Saved:
        """Everything that moves."""
        filled = torch.tensor([self._filled])
        return {"rows": self._rows.clone(), "counts": self._counts.clone(), "filling": self._filling.clone(),
                "filled": filled}  # fmt: skip

    def load(self, saved: Saved) -> None:
        """Go on where ``saved`` was taken.

        Raises:
            ValueError: it is of another width.
        """
        if saved["rows"].size(1) != self._filling.numel():
            raise ValueError(f"saved sums of {saved['rows'].size(1)} numbers, not of {self._filling.numel()}")
        self._rows, self._counts = saved["rows"][-self.most :].clone(), saved["counts"][-self.most :].clone()
        self._filling, self._filled = saved["filling"].clone(), int(saved["filled"])
