"""The source network: what it would answer, and the ways back to its weights."""

import math

import torch
from torch import Tensor, nn

from adapters.classifier import Classifier
from adapters.parts.dice import Dice
from adapters.parts.network import Network


class Source(nn.Module):
    """The frozen source, normalizing by the batch as its descendants do; adds no tensor of its own."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.network = Network(classifier)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Logits, N x C, of the source by batch statistics."""
        logits: Tensor = self.network(images)
        return logits


@torch.no_grad()
def restore_at_random(network: Network, rate: float, dice: Dice) -> float:
    """Put each learning element back to its source value with probability ``rate``, independently (CoTTA, eq. 7-8).

    Draws Poisson(-n ln(1 - rate)) indices with repetition: the chance that an element is drawn at least once is then
    exactly ``rate``, and independent of the others, at a cost in proportion to what is restored.

    Returns:
        The share of elements restored, as expected from the number of draws.
    """
    values, source = network.learns.values, network.source.values
    if rate <= 0.0:
        return 0.0
    if rate >= 1.0:
        values.copy_(source)
        return 1.0
    n = values.numel()
    expected = torch.tensor(-n * math.log1p(-rate), device=values.device)
    draws = int(torch.poisson(expected, generator=dice.generator))
    picked = torch.randint(n, (draws,), generator=dice.generator, device=values.device)
    values.index_copy_(0, picked, source.index_select(0, picked))
    return -math.expm1(-draws / n)


@torch.no_grad()
def restore_where(network: Network, mask: Tensor) -> float:
    """Put the masked learning elements back to their source values; ``mask`` is one bool an element.

    Returns:
        The share of elements restored, as a tensor-free number.
    """
    values, source = network.learns.values, network.source.values
    values.copy_(torch.where(mask, source, values))
    return float(mask.float().mean())


@torch.no_grad()
def pull(network: Network, kept: float) -> None:
    """``kept`` of what was learned and the rest of the source, element by element (ROID's weight ensembling)."""
    network.learns.values.lerp_(network.source.values, 1.0 - kept)
