"""Error along the stream. Harm is hatched, the frozen model is dashed: nothing is told by color alone."""

import math
from collections.abc import Sequence
from itertools import pairwise

from tta_daemon.offline.replay.results import Entry, Results
from tta_daemon.offline.replay.svg import Frame, Point, percent, polyline, steps, tag, text, tip

NAMES_FIT = 24
"""More stretches than these have no room for their names."""


def over_time(entry: Entry, results: Results, *, named: bool) -> str:
    """Error of one method along the stream, beside the frozen model's; ``named``: with the domains' names on top."""
    ours, theirs = entry.course, results.source.course
    highest = max(v for e in results.methods for v in e.course if math.isfinite(v))
    ticks = steps(highest)
    frame = Frame(1000, 196 if named else 116, (88 if named else 8, 64, 8, 44), (0, len(ours)), (0, ticks[-1]))
    xs = [n + 0.5 for n in range(len(ours))]
    mine = [(frame.x(x), frame.y(v)) for x, v in zip(xs, ours, strict=True)]
    source = [(frame.x(x), frame.y(v)) for x, v in zip(xs, theirs, strict=True)]
    harm = sum(o > t for o, t in zip(ours, theirs, strict=True))
    finite = [v for v in ours if math.isfinite(v)]
    described = (
        f"Error in {len(ours)} windows of {results.window} images, from {percent(min(finite))} to "
        f"{percent(max(finite))}. It is higher than the frozen model's in {harm} of them."
    )
    return frame.drawing(
        f"time-{entry.method}",
        f"Error of {entry.method} over the stream",
        described,
        _stretches(frame, results, named=named),
        frame.rows(ticks, [percent(t) for t in ticks]),
        _between(mine, source),
        polyline(source, class_="line source"),
        "" if entry is results.source else polyline(mine, class_="line ours"),
        _windows(frame, entry, results),
    )


def _between(mine: Sequence[Point], source: Sequence[Point]) -> str:
    """The areas in which a method's line lies above the source's: harm, window by window."""
    shapes = []
    for (a, b), (s, t) in zip(pairwise(mine), pairwise(source), strict=True):
        before, after = s[1] - a[1], t[1] - b[1]  # above zero where the method is worse: higher is less, here
        if not math.isfinite(before + after) or max(before, after) <= 0:
            continue
        met = before / (before - after) if before * after < 0 else 0.0
        cross = (a[0] + met * (b[0] - a[0]), a[1] + met * (b[1] - a[1]))
        left = [a, s] if before > 0 else [cross]
        right = [t, b] if after > 0 else [cross]
        shapes.append(tag("polygon", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in left + right), class_="harm"))
    return "".join(shapes)


def _stretches(frame: Frame, results: Results, *, named: bool) -> str:
    ends = [s.begins for s in results.stretches[1:]] + [1.0]
    width = frame.xs[1]
    parts = []
    for number, (stretch, end) in enumerate(zip(results.stretches, ends, strict=False)):
        left, right = frame.x(stretch.begins * width), frame.x(end * width)
        if number % 2:
            parts.append(
                tag("rect", x=left, y=frame.top, width=right - left, height=frame.bottom - frame.top, class_="band")
            )
        if named and len(results.stretches) <= NAMES_FIT:
            x, y = (left + right) / 2, frame.top - 8
            turned = f"rotate(-38 {x:.1f} {y:.1f})"
            parts.append(text(stretch.domain.replace("_", " "), x, y, class_="tick", transform=turned))
    return "".join(parts)


def _windows(frame: Frame, entry: Entry, results: Results) -> str:
    """Invisible columns that tell a pointer the numbers."""
    names = [(s.begins * len(entry.course), s.domain) for s in results.stretches]
    parts = []
    for n, (ours, theirs) in enumerate(zip(entry.course, results.source.course, strict=True)):
        if math.isfinite(ours):
            domain = next((f"{name}: " for begins, name in reversed(names) if begins <= n + 0.5), "")
            words = f"{domain}{entry.method} {percent(ours)}, frozen model {percent(theirs)}"
            width = frame.x(n + 1) - frame.x(n)
            parts.append(
                tag(
                    "rect",
                    tip(words),
                    x=frame.x(n),
                    y=frame.top,
                    width=width,
                    height=frame.bottom - frame.top,
                    class_="hot",
                )
            )
    return "".join(parts)
