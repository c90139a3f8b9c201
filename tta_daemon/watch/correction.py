"""Labels that arrive after all say how good the estimates were; what they say is added to the next ones."""

import math
from collections.abc import Mapping

import torch

from tta_daemon.watch.blocks import Saved
from tta_daemon.watch.estimates import PAIRS, Estimate, Pair


class Correction:
    """What labels say of estimates: how far off they were, on average, shrunk toward nothing and soon forgotten."""

    DOUBTED = 200.0
    """Labeled images that the belief in no error counts as."""

    REMEMBERED = 2000.0
    """Labeled images that are looked back on."""

    def __init__(self) -> None:
        self._sums = torch.zeros(len(PAIRS), 2, dtype=torch.float64)

    def labeled(self, said: Mapping[Pair, float], right: Mapping[str, float], images: int) -> None:
        """So many images were labeled; ``said`` was estimated when they were answered, ``right`` is the truth."""
        for row, (estimator, model) in enumerate(PAIRS):
            if (estimator, model) in said and model in right:
                self._sums[row] *= math.exp(-images / self.REMEMBERED)
                self._sums[row] += torch.tensor([right[model] - said[estimator, model] * images, images])

    def of(self, pair: Pair) -> float:
        """What is to be added to an estimate."""
        error, images = self._sums[PAIRS.index(pair)].tolist()
        return error / (images + self.DOUBTED) if math.isfinite(error) else 0.0

    def doubt(self) -> None:
        """Another domain: believe half."""
        self._sums *= 0.5

    def dump(self) -> Saved:
        """Everything that moves."""
        return {"sums": self._sums.clone()}

    def load(self, saved: Saved) -> None:
        """Go on where ``saved`` was taken."""
        self._sums = saved["sums"].clone()


def corrected(estimate: Estimate, by: float) -> Estimate:
    """The same estimate, moved."""
    low, value, high = (min(max(x + by, 0.0), 1.0) for x in (estimate.low, estimate.value, estimate.high))
    return Estimate(value, low, high, estimate.images, estimate.doubt)
