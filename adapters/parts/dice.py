"""An adapter's own randomness, which travels with its memory."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Dice(nn.Module):
    """A seeded generator on the device of the network; its state is part of the adapter's memory."""

    def __init__(self, seed: int, device: torch.device) -> None:
        super().__init__()
        self.generator = torch.Generator(device).manual_seed(seed)

    def get_extra_state(self) -> Mapping[str, Tensor]:
        """The generator's state as bytes."""
        return {"state": self.generator.get_state()}

    def set_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on where ``state`` was taken."""
        self.generator.set_state(state["state"].cpu())
