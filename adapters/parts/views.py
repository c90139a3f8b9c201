"""Random views of images: the color jitter, affine map, blur and noise that CoTTA brought to test-time adaptation.

Cohen and Giryes, "KATANA: Simple Post-Training Robustness Using Test-Time Augmentations", 2021; Wang et al. 2022.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from adapters.parts.colors import COLORS
from adapters.parts.dice import Dice
from adapters.parts.norms import by_part, from_batch, normalizing

ViewKind = Literal["random", "flip", "identity"]
"""Which view: a random one, or for comparisons the mirrored image or the image itself."""

Padding = Literal["edge", "reflect"]
"""What lies beyond the border of an image: its last pixel again, or its mirror image."""

_TAPS = 2


@dataclass(frozen=True, slots=True)
class Viewpoint:
    """One view's parameters, the same for every image of the batch, as published code has it."""

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    gamma: float = 1.0
    order: tuple[str, ...] = ()
    degrees: float = 0.0
    right: int = 0
    down: int = 0
    scale: float = 1.0
    sigma: float = 0.0
    noise: float = 0.0
    mirrored: bool = False


def view(  # noqa: PLR0913 - each switch is a published variant
    images: Tensor,
    dice: Dice,
    strength: float,
    *,
    kind: ViewKind = "random",
    blur: bool = True,
    noise: bool = True,
    padding: Padding = "edge",
) -> Tensor:
    """One view of the whole batch (N x 3 x H x W in [0, 1]).

    Strength 1 is the published "hard" setting, 0.5 the "soft" one, 0 the images themselves.
    """
    if kind == "flip":
        return images.flip(3)
    if kind == "identity" or strength == 0.0:
        return images
    return seen_from(images, draw(dice, strength, images, blur=blur, noise=noise), dice, padding)


def views(images: Tensor, count: int, dice: Dice, strength: float, kind: ViewKind = "random") -> Iterator[Tensor]:
    """``count`` views, one after the other; of kind ``flip`` every second one is the mirrored image."""
    for k in range(count):
        yield view(images, dice, strength, kind="identity" if kind == "flip" and k % 2 == 0 else kind)


@torch.no_grad()
def answers(network: nn.Module, seen: Iterable[Tensor], at_once: int) -> Tensor:
    """Logits, V x N x C, of V views; as many views share a pass as ``at_once`` images hold, normalized each by itself.

    What a pass shares shrinks as batches grow, so memory stays bounded.
    """
    logits, waiting = [], iter(seen)
    for first in waiting:
        group = [first, *islice(waiting, at_once // len(first) - 1 if at_once > len(first) else 0)]
        with normalizing(network, by_part(len(group)) if len(group) > 1 else from_batch):
            logits.append(network(torch.cat(group) if len(group) > 1 else first).unflatten(0, (len(group), -1)))
    return torch.cat(logits)


def draw(dice: Dice, strength: float, images: Tensor, *, blur: bool = True, noise: bool = True) -> Viewpoint:
    """Throw the dice for one view."""
    throws = torch.rand(16, generator=dice.generator, device=images.device).tolist()
    ranks = dict(zip(COLORS, throws[11:], strict=True))
    around = [2.0 * t - 1.0 for t in throws]
    soft = min(1.0, 2.0 * strength)
    height, width = images.shape[2:]
    return Viewpoint(
        brightness=1.0 + 0.4 * strength * around[0],
        contrast=1.0 + 0.3 * strength * around[1],
        saturation=1.0 + 0.5 * strength * around[2],
        hue=0.06 * strength * around[3],
        gamma=1.0 + 0.3 * strength * around[4],
        order=tuple(sorted(ranks, key=ranks.__getitem__)),
        degrees=15.0 * strength * around[5],
        right=round(width / 8 * soft * around[6]),
        down=round(height / 8 * soft * around[7]),
        scale=1.0 + 0.1 * strength * around[8],
        sigma=(0.001 + (0.5 * strength - 0.001) * throws[9]) if blur else 0.0,
        noise=0.005 * soft if noise else 0.0,
        mirrored=throws[10] < 0.5 * soft,
    )


@torch.no_grad()
def seen_from(images: Tensor, point: Viewpoint, dice: Dice, padding: Padding = "edge") -> Tensor:
    """The batch from one viewpoint, in the published order: colors, affine map, blur, mirror, noise."""
    seen = images.clamp(0.0, 1.0)
    for name in point.order:
        seen = COLORS[name](seen, getattr(point, name))
    taps = _gaussian(point.sigma, seen.dtype)
    seen = _blurred(_moved(seen, point, padding, margin=len(taps) - 1), taps)
    if point.noise > 0.0:
        noise = torch.randn(seen.shape, generator=dice.generator, dtype=seen.dtype, device=seen.device)
        seen = seen.add_(noise, alpha=point.noise)
    return seen.clamp_(0.0, 1.0)


def _moved(images: Tensor, point: Viewpoint, padding: Padding, margin: int) -> Tensor:
    """Rotate, shift, scale and mirror about the center, with ``margin`` pixels more on each side.

    Equal to padding by half the side, `torchvision`'s affine map and the center crop, in one sampling.
    """
    height, width = images.shape[2:]
    sin, cos = math.sin(math.radians(point.degrees)), math.cos(math.radians(point.degrees))
    x = torch.arange(-margin, width + margin, dtype=images.dtype, device=images.device) - (width - 1) / 2
    y = torch.arange(-margin, height + margin, dtype=images.dtype, device=images.device) - (height - 1) / 2
    x = ((-x if point.mirrored else x) - point.right) / point.scale
    y = (y - point.down).unsqueeze(1) / point.scale
    across = (cos * x + sin * y) * (2 / max(width - 1, 1))
    along = (cos * y - sin * x) * (2 / max(height - 1, 1))
    grid = torch.stack((across, along), 2).expand(len(images), -1, -1, -1)
    mode = "border" if padding == "edge" else "reflection"
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode=mode, align_corners=True)


def _gaussian(sigma: float, dtype: torch.dtype) -> list[float]:
    """Weights of the middle tap and of those beside it, up to two; those too small to matter in ``dtype`` are left."""
    if sigma == 0.0:
        return [1.0]
    taps = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(_TAPS + 1)]
    total = taps[0] + 2.0 * sum(taps[1:])
    return [t / total for t in taps if t > torch.finfo(dtype).eps]


def _blurred(images: Tensor, taps: list[float]) -> Tensor:
    """Convolve along both sides; the margin of ``len(taps) - 1`` pixels is used up."""
    for dim in (2, 3):
        reach, side = len(taps) - 1, images.size(dim)
        kept = images.narrow(dim, reach, side - 2 * reach).mul(taps[0])
        for i, weight in enumerate(taps[1:], start=1):
            kept.add_(images.narrow(dim, reach - i, side - 2 * reach), alpha=weight)
            kept.add_(images.narrow(dim, reach + i, side - 2 * reach), alpha=weight)
        images = kept
    return images
