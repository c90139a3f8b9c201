"""ViDA's graft: a low and a high rank beside a weight, each with a scale of its own that is set at the call."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from adapters.parts.dice import Dice
from adapters.parts.surgery import attention_or_convolutions
from adapters.parts.vector import Vector


class DualRank(nn.Module):
    """The weight W as W + low U_l D_l + high U_h D_h, so that it costs the same however large the batch.

    Newborn it leaves the weight as it is: U is zero, D normal with standard deviation 1 / rank^2.
    """

    def __init__(self, weight: Tensor, low: int, high: int, dice: Dice) -> None:
        super().__init__()
        fan_out, fan_in = weight.flatten(1).shape
        spread = weight.new_tensor([low**-2.0] * low + [high**-2.0] * high)
        down = torch.randn(low + high, fan_in, generator=dice.generator, dtype=weight.dtype, device=weight.device)
        self.down = nn.Parameter(down * spread[:, None])
        self.up = nn.Parameter(weight.new_zeros(fan_out, low + high))
        self.low = low
        self.scales = (weight.new_ones(()), weight.new_ones(()))

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with both ranks, each by its scale."""
        low, high = self.scales
        scales = torch.cat([low.expand(self.low), high.expand(self.up.size(1) - self.low)])
        return weight + ((self.up * scales) @ self.down).view(weight.shape)


def grow(network: nn.Module, low: int, high: int, dice: Dice) -> Vector:
    """Graft both ranks on every linear map of attention, or where there is none on every convolution.

    Raises:
        ValueError: there is nothing to graft on.
    """
    grown: list[nn.Parameter] = []
    for module, name in attention_or_convolutions(network):
        graft = DualRank(getattr(module, name), low, high, dice)
        parametrize.register_parametrization(module, name, graft)
        grown += graft.parameters()
    return Vector(grown)


@contextmanager
def balanced(network: nn.Module, low: Tensor, high: Tensor) -> Iterator[None]:
    """Within, the grafts of ``network`` have these scales."""
    grafts = [m for m in network.modules() if isinstance(m, DualRank)]
    before = [graft.scales for graft in grafts]
    for graft in grafts:
        graft.scales = (low, high)
    try:
        yield
    finally:
        for graft, scales in zip(grafts, before, strict=True):
            graft.scales = scales
