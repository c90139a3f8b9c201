"""Small modules that a frozen network grows, and the network with them."""

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from adapters.classifier import Classifier
from adapters.parts.dice import Dice
from adapters.parts.network import Network
from adapters.parts.norms import StreamNorm, from_batch, from_source, moments
from adapters.parts.surgery import Part
from adapters.parts.vector import Vector


class MetaGraft(nn.Module):
    """EcoTTA's meta network of one part: BN(x) + ReLU(BN(Conv3x3(before))), x the part's output, before its input.

    Newborn it is the identity on x: the first norm scales and shifts but does not normalize, and the convolution adds
    a constant that the first norm takes away again. A warmed-up graft normalizes both.
    """

    def __init__(self, part: Part, like: Tensor, dice: Dice) -> None:
        super().__init__()
        self.conv = nn.Conv2d(part.channels_in, part.channels_out, 3, part.stride, 1, bias=False).to(like)
        bound = (9 * part.channels_in) ** -0.5
        nn.init.uniform_(self.conv.weight, -bound, bound, generator=dice.generator)
        self.keeps = StreamNorm(nn.BatchNorm2d(part.channels_out).to(like), moves=False)
        self.adds = StreamNorm(nn.BatchNorm2d(part.channels_out).to(like), moves=False)
        self.keeps.var.fill_(1.0 - self.keeps.eps)
        self.keeps.rule = from_source
        with torch.no_grad():
            self.keeps.bias.fill_(-1.0)
            self.adds.weight.zero_()
            self.adds.bias.fill_(1.0)

    def normalize(self) -> None:
        """From here on both norms are by the batch, as a warmed-up graft's are."""
        self.keeps.rule = from_batch

    @torch.no_grad()
    def settle(self, x: Tensor) -> None:
        """Normalize, and give ``x`` back its own mean and variance, so that on the source it stays what it is."""
        mean, var = moments(x)
        self.keeps.weight.copy_(torch.sqrt(var + self.keeps.eps))
        self.keeps.bias.copy_(mean - 1.0)
        self.normalize()

    def forward(self, before: Tensor, x: Tensor) -> Tensor:
        """What leaves the part in place of ``x``."""
        kept: Tensor = self.keeps(x)
        return kept + functional.relu(self.adds(self.conv(before)))


def recomputed(module: nn.Module, *given: Tensor, **named: Any) -> Tensor:  # noqa: ANN401 - whatever the module takes
    """What ``module`` gives, of which only ``given`` is kept; the backward pass computes the rest again."""
    if not torch.is_grad_enabled() or not any(t.requires_grad for t in (*given, *module.parameters())):
        return cast("Tensor", module(*given, **named))
    return cast("Tensor", checkpoint(module, *given, use_reentrant=False, preserve_rng_state=False, **named))


class Recomputed(nn.Module):
    """A block that is computed again in the backward pass."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, **named: Any) -> Tensor:  # noqa: ANN401 - whatever the block takes
        """What the block gives."""
        return recomputed(self.block, x, **named)


Trail = list[tuple[Tensor, Tensor]]
"""For each part what went in, and what its frozen blocks made of it."""


class Grafted(nn.Module):
    """A frozen classifier with a meta network behind each of its parts."""

    def __init__(self, classifier: Classifier, parts: Sequence[Part], dice: Dice, *, recompute: bool) -> None:
        super().__init__()
        self.network = Network(classifier)
        self.grafts = nn.ModuleList(MetaGraft(part, classifier.mean, dice) for part in parts)
        self.learns = Vector(list(self.grafts.parameters()))
        self.recompute = recompute
        self._entered: list[Tensor] = []
        self._trail: Trail = []
        inside = self.network.classifier.network
        for graft, part in zip(self.grafts, parts, strict=True):
            for name in part.blocks if recompute else ():
                inside.set_submodule(name, Recomputed(inside.get_submodule(name)))
            inside.get_submodule(part.blocks[0]).register_forward_pre_hook(self._enter)
            inside.get_submodule(part.blocks[-1]).register_forward_hook(partial(self._leave, graft))

    def forward(self, images: Tensor) -> tuple[Tensor, Trail]:
        """Logits, N x C, and what passed each part."""
        try:
            return self.network(images), self._trail
        finally:
            self._entered, self._trail = [], []

    def normalize(self) -> None:
        """The norms of all meta networks are by the batch from here on."""
        for graft in self.grafts:
            cast("MetaGraft", graft).normalize()

    @torch.no_grad()
    def settle(self, images: Tensor) -> None:
        """Let newborn meta networks normalize, and still change nothing on images such as these."""
        _, trail = self(images)
        for graft, (_, x) in zip(self.grafts, trail, strict=True):
            cast("MetaGraft", graft).settle(x)

    def departure(self, trail: Trail) -> Tensor:
        """How far each meta network takes its part's output from what it was, with a gradient for that one alone."""
        learns = self.learns.values.dtype
        with self.network.classifier.computing():
            apart = [
                (self._grown(graft, before.detach(), x.detach()) - x.detach()).abs().mean(dtype=learns)
                for graft, (before, x) in zip(self.grafts, trail, strict=True)
            ]
        return torch.stack(apart).sum()

    def _enter(self, _: nn.Module, given: tuple[Tensor, ...]) -> None:
        self._entered.append(given[0])

    def _leave(self, graft: nn.Module, _: nn.Module, _given: tuple[Tensor, ...], x: Tensor) -> Tensor:
        before = self._entered.pop()
        self._trail.append((before, x))
        return self._grown(graft, before, x)

    def _grown(self, graft: nn.Module, before: Tensor, x: Tensor) -> Tensor:
        return recomputed(graft, before, x) if self.recompute else cast("Tensor", graft(before, x))
