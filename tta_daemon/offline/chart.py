"""The picture of a demo: who was right while the world changed."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tta_daemon.offline.scoreboard import Scoreboard
from tta_daemon.offline.traffic import Photo

WINDOW = 160
ADAPTED: Mapping[str, Any] = {"color": "#0b6e99", "linewidth": 2.6}
SOURCE: Mapping[str, Any] = {"color": "#d1812f", "linewidth": 1.8, "linestyle": (0, (4, 1.5))}
SOURCE_WORDS = "#a85f10"
SAMPLES = 4
"""Photos shown of each stretch, two by two."""


def draw(board: Scoreboard, path: Path) -> None:
    """Write the chart as a PNG. Lines differ by more than color, so that it can be read in gray."""
    figure = Figure(figsize=(12, 5.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, height_ratios=[1, 4.2], sharex=True)
    borders = list(accumulate((score.images for score in board.scores), initial=0))
    _samples(above, board, borders)
    _course(below, board)
    _stretches(below, board, borders)
    total = board.total
    figure.suptitle(
        f"Digits read correctly over one stream: {total.adapted:.1%} with test-time adaptation, "
        f"{total.source:.1%} by the same model frozen",
        fontsize=14,
        fontweight="bold",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _course(axes: Axes, board: Scoreboard) -> None:
    place, adapted, source = board.course(WINDOW)
    axes.plot(place, 100 * source, label="frozen model", **SOURCE)
    axes.plot(place, 100 * adapted, label="adapted by the daemon", **ADAPTED)
    axes.set(xlim=(0, len(place)), ylim=(0, 104), ylabel=f"correct, % (running over {WINDOW} photos)", xlabel="photos")
    axes.yaxis.grid(visible=True, color="#bbbbbb", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower left", ncols=2, framealpha=0.95)


def _stretches(axes: Axes, board: Scoreboard, borders: Sequence[int]) -> None:
    for number, (stretch, score) in enumerate(zip(board.journey, board.scores, strict=True)):
        start, end = borders[number], borders[number + 1]
        if stretch.world != "clear":
            axes.axvspan(start, end, color="#e9e9e9" if number % 2 else "#f4f4f4", zorder=0)
        axes.axvline(end, color="#999999", linewidth=0.6)
        middle = (start + end) / 2
        bold: dict[str, Any] = {"ha": "center", "fontsize": 9, "fontweight": "bold"}
        axes.text(middle, 21.5, f"{score.adapted:.1%}", color=ADAPTED["color"], **bold)
        axes.text(middle, 14.5, f"{score.source:.1%}", color=SOURCE_WORDS, **bold)


def _samples(axes: Axes, board: Scoreboard, borders: Sequence[int]) -> None:
    axes.set(ylim=(0, 1))
    axes.set_axis_off()
    per_photo = borders[-1] / len(board.journey) / 2
    for number, stretch in enumerate(board.journey):
        middle = (borders[number] + borders[number + 1]) / 2
        photos = [item.image for item in board.sent if isinstance(item, Photo) and item.stretch == number][:SAMPLES]
        rows = [np.concatenate(photos[start : start + 2], axis=1) for start in range(0, len(photos) - 1, 2)]
        half = 0.86 * per_photo
        axes.imshow(
            np.concatenate(rows),
            extent=(middle - half, middle + half, 0.0, 0.8),
            aspect="auto",
            interpolation="nearest",
        )
        axes.text(middle, 0.84, stretch.world, ha="center", va="bottom", fontsize=9)
    axes.set_xlim(0, borders[-1])
