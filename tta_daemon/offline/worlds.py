"""The drift of the demo as a person would see it: fog, darkness, a washed-out picture, sensor noise, blur."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats: TypeAlias = NDArray[np.float32]
Pixels: TypeAlias = NDArray[np.uint8]
World: TypeAlias = Callable[[Floats, np.random.Generator], Floats]
"""Turns images in [0, 1] (N x H x W x 3) into what the camera sees there; values outside are clipped afterwards."""


def clear(images: Floats, _chance: np.random.Generator) -> Floats:
    """A good day: the scan as it is."""
    return images


def fog(images: Floats, chance: np.random.Generator, thickness: float = 0.56) -> Floats:
    """Bright mist in front of the digit, thicker in some places than in others, different in every picture."""
    count, height, width, _ = images.shape
    patches = chance.random((count, 4, 4), dtype=np.float32)
    drift = np.stack([_stretch(patch, width, height) for patch in patches])[..., None]
    veil = thickness + 0.25 * (drift - 0.5)
    mist = np.array([0.82, 0.85, 0.88], dtype=np.float32)
    return images * (1 - veil) + mist * veil


def darkness(images: Floats, chance: np.random.Generator, light: float = 0.18) -> Floats:
    """Night: little light is left, it is bluish, and the sensor's grain begins to show."""
    moonlight = light * np.array([0.8, 0.9, 1.2], dtype=np.float32)
    return images * moonlight + _grain(images, chance, 0.012)


def low_contrast(images: Floats, _chance: np.random.Generator, contrast: float = 0.14) -> Floats:
    """A washed-out picture: everything is close to the same gray."""
    return 0.5 + contrast * (images - 0.5)


def noise(images: Floats, chance: np.random.Generator, strength: float = 0.45) -> Floats:
    """A bad sensor: every pixel and color is off by chance."""
    return images + _grain(images, chance, strength)


def blur(images: Floats, _chance: np.random.Generator, sigma: float = 2.2) -> Floats:
    """A lens out of focus."""
    reach = np.arange(-6, 7, dtype=np.float32)
    kernel = np.exp(-(reach**2) / (2 * sigma**2))
    weights = np.asarray(kernel / kernel.sum(), dtype=np.float32)
    return _slide(_slide(images, weights, axis=1), weights, axis=2)


WORLDS: Mapping[str, World] = {
    "clear": clear,
    "fog": fog,
    "darkness": darkness,
    "low contrast": low_contrast,
    "noise": noise,
    "blur": blur,
}


class Stretch(NamedTuple):
    """A part of the stream during which the world stays the same."""

    world: str
    lap: int

    def see(self, images: Pixels, chance: np.random.Generator) -> Pixels:
        """Return the images (uint8, N x H x W x 3) as the camera delivers them in this world."""
        seen = WORLDS[self.world](images.astype(np.float32) / np.float32(255), chance)
        return np.rint(np.clip(seen, 0, 1) * 255).astype(np.uint8)


LAP = ("clear", "fog", "darkness", "low contrast", "noise", "blur", "clear")
"""One journey: out of the clear, through five kinds of trouble and back."""


def journey(laps: int) -> tuple[Stretch, ...]:
    """Return the stretches of the stream in their order."""
    return tuple(Stretch(world, lap) for lap in range(1, laps + 1) for world in LAP)


def _grain(images: Floats, chance: np.random.Generator, strength: float) -> Floats:
    return strength * chance.standard_normal(images.shape, dtype=np.float32)


def _stretch(patch: Floats, width: int, height: int) -> Floats:
    return np.asarray(Image.fromarray(patch).resize((width, height), Image.Resampling.BICUBIC))


def _slide(images: Floats, kernel: Floats, axis: int) -> Floats:
    margin = [(0, 0)] * images.ndim
    half = len(kernel) // 2
    margin[axis] = (half, half)
    padded = np.pad(images, margin, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(kernel), axis=axis)
    return np.asarray(windows @ kernel, dtype=np.float32)
