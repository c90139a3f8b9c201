"""Synthetic shifts of source images, of every strength: what estimates of accuracy are taught on before deployment.

They are generic on purpose, and none is made after any benchmark's corruptions. All take and give images, N x 3 x H x
W, in [0, 1]; strength runs from 0, nothing, to 1, hardly to be recognized.
"""

import io
import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

Shift = Callable[[Tensor, float, torch.Generator], Tensor]

ATTEMPTED = ((1,), (1,), (1,), (2,), (2,), (3,))
"""How many shifts come together; each row as likely as the others."""


def gaussian(images: Tensor, strength: float, dice: torch.Generator) -> Tensor:
    """Noise of every pixel and color."""
    return images + 0.5 * strength * torch.randn(images.shape, generator=dice)


def speckle(images: Tensor, strength: float, dice: torch.Generator) -> Tensor:
    """Noise in proportion to brightness."""
    return images * (1.0 + 0.9 * strength * torch.randn(images.shape, generator=dice))


def grain(images: Tensor, strength: float, dice: torch.Generator) -> Tensor:
    """Noise without color."""
    return images + 0.4 * strength * torch.randn(_plane(images), generator=dice)


def dead_pixels(images: Tensor, strength: float, dice: torch.Generator) -> Tensor:
    """Pixels that are black or white in some color."""
    dead = torch.rand(_plane(images), generator=dice) < 0.35 * strength
    return torch.where(dead, torch.rand(images.shape, generator=dice).round(), images)


def blur(images: Tensor, strength: float, dice: torch.Generator) -> Tensor:
    """Out of focus."""
    del dice
    sigma = 0.3 + strength * images.size(3) / 20
    reach = max(1, math.ceil(2.5 * sigma))
    kernel = torch.exp(-torch.arange(-reach, reach + 1).float().square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1).repeat(3, 1, 1, 1)
    across = functional.conv2d(functional.pad(images, (reach, reach, 0, 0), mode="replicate"), kernel, groups=3)
    padded = functional.pad(across, (0, 0, reach, reach), mode="replicate")
    return functional.conv2d(padded, kernel.transpose(2, 3), groups=3)


def smear(images: Tensor, strength: float, dice: torch.Generator) -> Tensor:
    """Moved while the shutter was open, all in one direction."""
    steps = 1 + round(strength * images.size(3) / 3)
    angle = math.pi * _uniform(dice)
    reach = [(step - (steps - 1) / 2) * 2 / images.size(3) for step in range(steps)]
    moved = [_sampled(images, _affine(images, shift=(math.cos(angle) * r, math.sin(angle) * r))) for r in reach]
    return torch.stack(moved).mean(0)


def coarse(images: Tensor, strength: float, dice: torch.Generator) -> Tensor:
    """Fewer pixels, stretched."""
    size = max(4, round(images.size(3) * (1 - 0.8 * strength)))
    small = functional.interpolate(images, size=(size, size), mode="area")
    smooth = _uniform(dice) < 0.5  # noqa: PLR2004 - a coin
    if smooth:
        return functional.interpolate(small, size=images.shape[2:], mode="bilinear", align_corners=False)
    return functional.interpolate(small, size=images.shape[2:], mode="nearest")


def contrast(images: Tensor, strength: float, dice: torch.Generator) -> Tensor:
    """Washed out, around each picture's gray or the middle one."""
    middle = images.mean((1, 2, 3), keepdim=True) if _uniform(dice) < 0.5 else torch.tensor(0.5)  # noqa: PLR2004 - a coin
    return middle + (images - middle) * (1 - 0.92 * strength)


def exposure(images: Tensor, strength: float, dice: torch.Generator) -> Tensor:
    """Too bright or too dark."""
    return images + 0.6 * strength * _sign(dice)


def gamma(images: Tensor, strength: float, dice: torch.Generator) -> Tensor:
    """Dark tones lifted, or sunk."""
    return images.clamp(0, 1) ** math.exp(1.6 * strength * _sign(dice))


def saturation(images: Tensor, strength: float, dice: torch.Generator) -> Tensor:
    """Pale, or garish."""
    gray = images.mean(1, keepdim=True)
    return gray + (images - gray) * (1 + (3 if _sign(dice) > 0 else -1) * strength)


def tint(images: Tensor, strength: float, dice: torch.Generator) -> Tensor:
    """Light of another color."""
    return images + 0.5 * strength * (2 * torch.rand(1, 3, 1, 1, generator=dice) - 1)


def veil(images: Tensor, strength: float, dice: torch.Generator) -> Tensor:
    """Mist or glare, thicker here than there."""
    cells = 2 ** (1 + int(3 * _uniform(dice)))
    thickness = _smooth(torch.rand(len(images), 1, cells, cells, generator=dice), images)
    opacity = 0.8 * strength * (0.4 + 0.6 * thickness)
    return images * (1 - opacity) + (0.6 + 0.4 * _uniform(dice)) * opacity


def spots(images: Tensor, strength: float, dice: torch.Generator) -> Tensor:
    """Bright spots in front."""
    cells = (images.size(2) // 2, images.size(3) // 2)
    heights = _smooth(torch.rand(len(images), 1, *cells, generator=dice), images)
    mask = ((heights - 1 + 0.45 * strength) * 8).clamp(0, 1)
    return images * (1 - mask) + (0.7 + 0.3 * _uniform(dice)) * mask


def warp(images: Tensor, strength: float, dice: torch.Generator) -> Tensor:
    """Seen through uneven glass."""
    cells = 3 + 2 * int(3 * _uniform(dice))
    field = _smooth(torch.randn(len(images), 2, cells, cells, generator=dice), images) * strength / cells
    return _sampled(images, _affine(images) + field.permute(0, 2, 3, 1))


def scatter(images: Tensor, strength: float, dice: torch.Generator) -> Tensor:
    """Pixels in the place of their neighbors."""
    reach = 1 + round(strength)
    for _ in range(2):
        x, y = (round((2 * _uniform(dice) - 1) * reach) for _ in range(2))
        moved = torch.rand(_plane(images), generator=dice) < 0.6 * strength
        images = torch.where(moved, torch.roll(images, (y, x), (2, 3)), images)
    return images


def turned(images: Tensor, strength: float, dice: torch.Generator) -> Tensor:
    """Turned and zoomed, each picture by its own."""
    angle = 0.7 * strength * (2 * torch.rand(len(images), generator=dice) - 1)
    zoom = torch.exp(0.5 * strength * (2 * torch.rand(len(images), generator=dice) - 1))
    cos, sin, still = angle.cos() * zoom, angle.sin() * zoom, torch.zeros_like(angle)
    matrix = torch.stack((torch.stack((cos, -sin, still), 1), torch.stack((sin, cos, still), 1)), 1)
    return _sampled(images, functional.affine_grid(matrix, list(images.shape), align_corners=False))


def jpeg(images: Tensor, strength: float, dice: torch.Generator) -> Tensor:
    """Compressed too much."""
    del dice
    quality = max(3, round(60 * (1 - strength) ** 1.5))
    stored = []
    for picture in (images.clamp(0, 1) * 255).byte().permute(0, 2, 3, 1).numpy():
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
        stored.append(np.asarray(Image.open(buffer)))
    return torch.from_numpy(np.stack(stored)).permute(0, 3, 1, 2).float() / 255


def posterize(images: Tensor, strength: float, dice: torch.Generator) -> Tensor:
    """Few tones."""
    del dice
    tones = max(2, round(16 * (1 - strength)))
    return (images * tones).round() / tones


FAMILIES: Mapping[str, tuple[Shift, ...]] = {
    "noise": (gaussian, speckle, grain, dead_pixels),
    "blur": (blur, smear, coarse),
    "tone": (contrast, exposure, gamma, saturation, tint, veil, spots),
    "form": (warp, scatter, turned),
    "code": (jpeg, posterize),
}
"""Shifts of a kind, so that an evaluation can leave the kind out that it is about."""


def shifted(images: Tensor, dice: torch.Generator, leave_out: str = "") -> Tensor:
    """The images under one to three shifts at random, all of them under the same."""
    families = [shifts for name, shifts in FAMILIES.items() if name != leave_out]
    (count,) = ATTEMPTED[int(len(ATTEMPTED) * _uniform(dice))]
    for _ in range(count):
        family = families[int(len(families) * _uniform(dice))]
        shift = family[int(len(family) * _uniform(dice))]
        strength = (0.05 + 0.95 * _uniform(dice)) / math.sqrt(count)
        images = shift(images, strength, dice).clamp(0, 1)
    return images


def _uniform(dice: torch.Generator) -> float:
    return float(torch.rand((), generator=dice))


def _sign(dice: torch.Generator) -> int:
    return 1 if _uniform(dice) < 0.5 else -1  # noqa: PLR2004 - a coin


def _plane(images: Tensor) -> tuple[int, int, int, int]:
    return len(images), 1, images.size(2), images.size(3)


def _smooth(field: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(field, size=like.shape[2:], mode="bilinear", align_corners=False)


def _affine(images: Tensor, shift: tuple[float, float] = (0.0, 0.0)) -> Tensor:
    matrix = torch.tensor([[1.0, 0.0, shift[0]], [0.0, 1.0, shift[1]]]).repeat(len(images), 1, 1)
    return functional.affine_grid(matrix, list(images.shape), align_corners=False)


def _sampled(images: Tensor, grid: Tensor) -> Tensor:
    return functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
