"""Small pictures in a terminal: each character shows two pixels, one above the other, in full color."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.color import Color
from rich.style import Style
from rich.text import Text

UPPER_HALF = "\u2580"


def picture(image: NDArray[np.uint8], side: int) -> list[Text]:
    """Draw an image (uint8, H x W x 3) ``side`` characters wide and half as many lines high."""
    small = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BOX))
    return [_line(upper, lower) for upper, lower in zip(small[0::2], small[1::2], strict=True)]


def sparkline(values: Sequence[float], width: int) -> str:
    """Draw values in [0, 1], oldest first, in at most ``width`` characters.

    >>> sparkline([0.0, 0.25, 0.5, 1.0], 10)
    '▁▃▅█'
    """
    bars = "▁▂▃▄▅▆▇█"
    if len(values) > width:
        values = [float(part.mean()) for part in np.array_split(np.asarray(values), width)]
    return "".join(bars[min(int(value * len(bars)), len(bars) - 1)] for value in values)


def _line(upper: NDArray[np.uint8], lower: NDArray[np.uint8]) -> Text:
    line = Text()
    for above, below in zip(upper, lower, strict=True):
        line.append(UPPER_HALF, Style(color=_color(above), bgcolor=_color(below)))
    return line


def _color(pixel: NDArray[np.uint8]) -> Color:
    red, green, blue = (int(value) for value in pixel)
    return Color.from_rgb(red, green, blue)
