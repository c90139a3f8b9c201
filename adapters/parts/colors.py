"""Changes of color of images in [0, 1], N x 3 x H x W, in place, as fast as a CPU reads and writes them."""

import torch
from torch import Tensor

_GRAY = (0.2989, 0.587, 0.114)


def brighten(images: Tensor, factor: float) -> Tensor:
    """Scale every channel."""
    return images.mul_(factor).clamp_(0.0, 1.0)


def contrast(images: Tensor, factor: float) -> Tensor:
    """Stretch each image about its mean gray."""
    gray = images.mean((2, 3)) @ images.new_tensor(_GRAY)
    return images.mul_(factor).add_(gray.mul_(1.0 - factor).view(-1, 1, 1, 1)).clamp_(0.0, 1.0)


def saturate(images: Tensor, factor: float) -> Tensor:
    """Stretch each pixel about its gray."""
    red, green, blue = images.unbind(1)
    gray = red.mul(_GRAY[0]).add_(green, alpha=_GRAY[1]).add_(blue, alpha=_GRAY[2])
    return images.mul_(factor).add_(gray.mul_(1.0 - factor).unsqueeze(1)).clamp_(0.0, 1.0)


def shift_hue(images: Tensor, turns: float) -> Tensor:
    """Turn each pixel's hue in HSV by so many turns of the color circle."""
    red, green, blue = images.unbind(1)
    top = torch.maximum(red, torch.maximum(green, blue))
    low = torch.minimum(red, torch.minimum(green, blue))
    chroma = top - low
    per_chroma = chroma.clamp(min=torch.finfo(chroma.dtype).tiny).reciprocal_()
    of_red = (green - blue).mul_(per_chroma)
    of_green = (blue - red).mul_(per_chroma).add_(2.0)
    hue = (red - green).mul_(per_chroma).add_(4.0)
    hue.lerp_(of_green, top.clone().eq_(green)).lerp_(of_red, top.eq_(red))  # `where`, many times as fast
    hue.add_(6.0 * turns)
    hue.sub_(torch.floor(hue / 6.0), alpha=6.0)
    torch.sub(hue, 3.0, out=red).abs_().sub_(1.0)
    torch.sub(hue, 2.0, out=green).abs_().neg_().add_(2.0)
    torch.sub(hue, 4.0, out=blue).abs_().neg_().add_(2.0)
    return images.clamp_(0.0, 1.0).mul_(chroma.unsqueeze(1)).add_(low.unsqueeze(1))


def bend(images: Tensor, gamma: float) -> Tensor:
    """Raise every channel to a power."""
    return images.clamp_(1e-8, 1.0).pow_(gamma)


COLORS = {"brightness": brighten, "contrast": contrast, "saturation": saturate, "hue": shift_hue, "gamma": bend}
"""Name -> change of color by one number."""
