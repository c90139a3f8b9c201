"""What naive methods share: a copied network, loops over its tensors, and views made one operation at a time."""

import copy
import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from adapters import Classifier
from adapters.options import Learning
from adapters.parts.dice import Dice
from adapters.parts.views import Viewpoint, draw

GRAY = torch.tensor([0.2989, 0.587, 0.114])


def by_batch(classifier: Classifier, *, affine_only: bool) -> nn.Module:
    """A copy in training mode whose norms use the batch; all of it learns, or the norms alone."""
    network = copy.deepcopy(classifier)
    network.train()
    network.requires_grad_(not affine_only)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(True)
            module.track_running_stats = False
            module.running_mean, module.running_var = None, None
    return network


def learning(network: nn.Module) -> list[nn.Parameter]:
    """What learns."""
    return [p for p in network.parameters() if p.requires_grad]


def optimizer(parameters: list[nn.Parameter], options: Learning) -> torch.optim.Optimizer:
    """The optimizer that the options ask for, at its defaults."""
    if options.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=options.lr, betas=(options.momentum, 0.999))
    return torch.optim.SGD(parameters, lr=options.lr, momentum=options.momentum, nesterov=options.nesterov)


def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """The moving average, tensor by tensor."""
    for ours, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
        ours.data[:] = momentum * ours[:].data[:] + (1 - momentum) * theirs[:].data[:]


def restore(network: nn.Module, source: Mapping[str, Tensor], rate: float) -> None:
    """A random mask for every tensor."""
    for name, parameter in network.named_parameters():
        mask = (torch.rand(parameter.shape) < rate).to(parameter)
        with torch.no_grad():
            parameter.data = source[name] * mask + parameter * (1.0 - mask)


def softmax_entropy(logits: Tensor) -> Tensor:
    """Entropy of each image's answer."""
    return -(logits.softmax(1) * logits.log_softmax(1)).sum(1)


def cross(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of each image's answer to soft labels."""
    return -(target.softmax(1) * logits.log_softmax(1)).sum(1)


def views(images: Tensor, count: int, dice: Dice, options: object) -> Iterator[Tensor]:
    """Views one after the other; of kind flip every second one mirrored."""
    for k in range(count):
        if getattr(options, "view_kind", "random") == "flip":
            yield images.flip(3) if k % 2 else images
        else:
            yield view(images, dice, options)


def view(images: Tensor, dice: Dice, options: object, *, soft: bool = False) -> Tensor:
    """One view of the batch; ``soft`` is without blur and noise, and mirrors what lies beyond the border."""
    kind = getattr(options, "view_kind", "random")
    if kind == "flip":
        return images.flip(3)
    point = draw(dice, options.view_strength, images, blur=not soft, noise=not soft)
    return seen(images, point, dice, "reflect" if soft else "replicate")


def seen(images: Tensor, point: Viewpoint, dice: Dice, padding: str) -> Tensor:
    """Clip, colors, pad to twice the side, affine map, blur, crop, mirror, noise, clip."""
    n = images.size(2)
    out = images.clamp(0.0, 1.0)
    for name in point.order:
        out = colored(out, name, getattr(point, name))
    out = functional.pad(out, (n // 2,) * 4, mode=padding)
    out = moved(out, point)
    if point.sigma:
        out = blurred(out, point.sigma)
    out = out[:, :, n // 2 : n // 2 + n, n // 2 : n // 2 + n]
    if point.mirrored:
        out = out.flip(3)
    if point.noise:
        out = out + point.noise * torch.randn(out.shape, generator=dice.generator, dtype=out.dtype)
    return out.clamp(0.0, 1.0)


def colored(images: Tensor, name: str, by: float) -> Tensor:
    """One change of color."""
    gray = (images * GRAY.to(images).view(1, 3, 1, 1)).sum(1, keepdim=True)
    if name == "brightness":
        return (images * by).clamp(0.0, 1.0)
    if name == "contrast":
        return (by * images + (1 - by) * gray.mean((1, 2, 3), keepdim=True)).clamp(0.0, 1.0)
    if name == "saturation":
        return (by * images + (1 - by) * gray).clamp(0.0, 1.0)
    if name == "gamma":
        return images.clamp(1e-8, 1.0) ** by
    hue, saturation, value = to_hsv(images)
    return to_rgb((hue + by) % 1.0, saturation, value)


def to_hsv(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue, saturation and value, each in [0, 1]."""
    red, green, blue = images.unbind(1)
    top, low = images.amax(1), images.amin(1)
    chroma = top - low
    safe = torch.where(chroma == 0, torch.ones_like(chroma), chroma)
    of_red = (green - blue) / safe
    of_green = 2.0 + (blue - red) / safe
    of_blue = 4.0 + (red - green) / safe
    hue = torch.where(top == red, of_red, torch.where(top == green, of_green, of_blue)) / 6.0
    return hue % 1.0, chroma / torch.where(top == 0, torch.ones_like(top), top), top


def to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Back again, by the six sectors of the color circle."""
    sector = torch.floor(hue * 6.0)
    part = hue * 6.0 - sector
    p = (value * (1.0 - saturation)).clamp(0.0, 1.0)
    q = (value * (1.0 - saturation * part)).clamp(0.0, 1.0)
    t = (value * (1.0 - saturation * (1.0 - part))).clamp(0.0, 1.0)
    sectors = torch.stack([torch.stack(c) for c in (
        (value, q, p, p, t, value), (t, value, value, q, p, p), (p, p, t, value, value, q)
    )])  # fmt: skip
    picked = sector.to(torch.int64).remainder(6) == torch.arange(6).view(6, 1, 1, 1)
    return torch.einsum("s...,cs...->c...", picked.to(value), sectors).transpose(0, 1)


def moved(images: Tensor, point: Viewpoint) -> Tensor:
    """The affine map of a square image, black beyond its border."""
    side = images.size(2)
    sin, cos = math.sin(math.radians(point.degrees)), math.cos(math.radians(point.degrees))
    across = -(cos * point.right + sin * point.down) * 2 / side
    along = -(cos * point.down - sin * point.right) * 2 / side
    theta = torch.tensor([[cos, sin, across], [-sin, cos, along]], dtype=images.dtype) / point.scale
    grid = functional.affine_grid(theta.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="zeros", align_corners=False)


def blurred(images: Tensor, sigma: float) -> Tensor:
    """A Gaussian of five by five, channel by channel."""
    taps = torch.exp(-0.5 * (torch.arange(-2, 3, dtype=images.dtype) / sigma) ** 2)
    taps = taps / taps.sum()
    kernel = (taps[:, None] * taps[None, :]).expand(3, 1, 5, 5)
    return functional.conv2d(functional.pad(images, (2, 2, 2, 2), mode="reflect"), kernel, groups=3)
