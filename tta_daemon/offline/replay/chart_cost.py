"""What a method takes, and what it gives. A triangle does harm; the diamond is the frozen model."""

import math
from collections.abc import Sequence

from tta_daemon.offline.replay.results import Results
from tta_daemon.offline.replay.svg import Frame, Point, percent, steps, tag, text, tip

Box = tuple[float, float, float, float]  # left, top, right, bottom


def cost(results: Results) -> str:
    """What each method takes, and what it gives."""
    entries = results.methods
    spent = [max(e.cost.answer_ms + e.cost.learn_ms, 1e-3) for e in entries]
    low, high = math.log10(min(spent)) - 0.1, math.log10(max(spent)) + 0.3
    ticks = steps(max(e.overall.high for e in entries))
    frame = Frame(1000, 400, (12, 70, 44, 44), (low, high), (0, ticks[-1]))
    powers = [f * 10.0**p for p in range(math.floor(low), math.ceil(high) + 1) for f in (1, 2, 5)]
    axis = [
        text(f"{v:g}", frame.x(math.log10(v)), frame.bottom + 16, class_="tick", text_anchor="middle")
        for v in powers
        if low <= math.log10(v) <= high
    ]
    at = frame.y(results.source.overall.error)
    best, cheap = (
        min(entries, key=lambda e: e.overall.error),
        min(zip(spent, entries, strict=True), key=lambda p: p[0])[1],
    )
    title = "milliseconds an image, answering and learning together (logarithmic)"
    return frame.drawing(
        "cost",
        "Cost against accuracy",
        f"The lowest error is {best.method}'s, {percent(best.overall.error)}; {cheap.method} costs least.",
        frame.rows(ticks, [percent(t) for t in ticks]),
        *axis,
        text(title, (frame.left + frame.right) / 2, frame.height - 6, class_="tick", text_anchor="middle"),
        tag("line", x1=frame.left, x2=frame.right, y1=at, y2=at, class_="line source thin"),
        _points(
            [(frame.x(math.log10(s)), frame.y(e.overall.error)) for s, e in zip(spent, entries, strict=True)],
            results,
        ),
    )


def _points(places: Sequence[Point], results: Results) -> str:
    """A marker for each method, with its name where there is room for it."""
    taken: list[Box] = [(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    parts = []
    for (x, y), entry in zip(places, results.methods, strict=True):
        frozen, worse = entry is results.source, entry.overall.against.verdict == "worse"
        name = entry.method + (" ▲" if worse else "")
        wide = 7.2 * len(name)
        spots = (
            (x + 10, y + 4),
            (x - 10 - wide, y + 4),
            (x - wide / 2, y - 11),
            (x - wide / 2, y + 20),
            (x + 10, y - 12),
        )
        boxes = [(left, base - 11, left + wide, base + 2) for left, base in spots]
        box = next((b for b in boxes if not any(_meet(b, other) for other in taken)), boxes[0])
        taken.append(box)
        spent = entry.cost.answer_ms + entry.cost.learn_ms
        words = f"{entry.method}: {percent(entry.overall.error)}, {spent:.2f} ms an image"
        marker = _marker(x, y, "source" if frozen else "harm" if worse else "ours")
        parts.append(tag("g", tip(words), marker, text(name, box[0], box[3] - 2, class_="name")))
    return "".join(parts)


def _marker(x: float, y: float, kind: str) -> str:
    if kind == "ours":
        return tag("circle", cx=x, cy=y, r=5, class_="mark ours")
    shape = "l6 6l-6 6l-6 -6z" if kind == "source" else "l6 11h-12z"
    return tag("path", d=f"M{x:.1f} {y - 6:.1f}{shape}", class_=f"mark {kind}")


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
