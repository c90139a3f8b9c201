"""Drawing: elements as text, and a frame that maps numbers to places."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

Point = tuple[float, float]


def tag(name: str, *inside: str, **attributes: object) -> str:
    """An element. ``inside`` is markup; attributes are text, their underscores become hyphens.

    >>> tag("circle", r=3, class_="dot", stroke_width=2)
    '<circle r="3" class="dot" stroke-width="2"/>'
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_short(value))}"' for key, value in attributes.items()
    )
    return f"<{name}{written}>{''.join(inside)}</{name}>" if inside else f"<{name}{written}/>"


def text(words: str, x: float, y: float, **attributes: object) -> str:
    """Words at a place."""
    return tag("text", escape(words), x=x, y=y, **attributes)


def tip(words: str) -> str:
    """What a pointer that rests on the element around it reads."""
    return tag("title", escape(words))


def polyline(points: Iterable[Point], **attributes: object) -> str:
    """A line through points; it breaks where one is not finite."""
    path, pen = [], "M"
    for x, y in points:
        if math.isfinite(y):
            path.append(f"{pen}{x:.1f} {y:.1f}")
            pen = "L"
        else:
            pen = "M"
    return tag("path", d="".join(path), fill="none", **attributes)


@dataclass(frozen=True, slots=True)
class Frame:
    """A drawing of ``width`` by ``height`` with margins, and the numbers that its inner edges stand for."""

    width: float
    height: float
    margins: tuple[float, float, float, float]  # top, right, bottom, left
    xs: tuple[float, float]
    ys: tuple[float, float]

    def x(self, value: float) -> float:
        """Where a number lies from left to right."""
        low, high = self.xs
        return self.left + (value - low) / (high - low) * (self.right - self.left)

    def y(self, value: float) -> float:
        """Where a number lies from top to bottom; larger ones lie higher."""
        low, high = self.ys
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)

    @property
    def top(self) -> float:
        """The inner upper edge."""
        return self.margins[0]

    @property
    def right(self) -> float:
        """The inner right edge."""
        return self.width - self.margins[1]

    @property
    def bottom(self) -> float:
        """The inner lower edge."""
        return self.height - self.margins[2]

    @property
    def left(self) -> float:
        """The inner left edge."""
        return self.margins[3]

    def rows(self, values: Sequence[float], labels: Sequence[str]) -> str:
        """Horizontal grid lines, each with its label at the left."""
        lines = (tag("line", x1=self.left, x2=self.right, y1=self.y(v), y2=self.y(v), class_="grid") for v in values)
        words = (
            text(label, self.left - 6, self.y(v) + 4, class_="tick", text_anchor="end")
            for v, label in zip(values, labels, strict=True)
        )
        return "".join((*lines, *words))

    def drawing(self, name: str, title: str, description: str, *parts: str) -> str:
        """The whole, with what a screen reader says of it; ``name`` is unique on the page."""
        heads = tag("title", escape(title), id=f"{name}-t") + tag("desc", escape(description), id=f"{name}-d")
        size = f"0 0 {_short(self.width)} {_short(self.height)}"
        spoken = f"{name}-t {name}-d"
        return tag("svg", heads, *parts, viewBox=size, role="img", aria_labelledby=spoken, class_="chart")


def steps(highest: float, most: int = 5) -> list[float]:
    """Round numbers from 0 on that reach ``highest``.

    >>> steps(0.43)
    [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    """
    highest = max(highest, 1e-9)
    power = 10.0 ** math.floor(math.log10(highest))
    each = next((power * f for f in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0) if highest / (power * f) <= most), power * 10)
    return [round(n * each, 10) for n in range(math.ceil(round(highest / each, 9)) + 1)]


def percent(rate: float) -> str:
    """A rate in percent: one digit, none where it is whole.

    >>> percent(0.25), percent(0.123)
    ('25 %', '12.3 %')
    """
    return f"{100 * rate:.1f}".removesuffix(".0") + " %"


def _short(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
