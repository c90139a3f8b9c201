"""Draw docs/speed.svg and docs/speed-growth.svg from the published figures.

python benchmarks/speed_chart.py
"""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
PLAIN = "frozen, torch"
SIDES = {", naive": ("#bbbbbb", "naive"), "": ("#2266aa", "ours"), ", bfloat16": ("#dd8833", "ours, mixed precision")}
LINES = {"frozen": ("#888888", "-"), "frozen, bfloat16": ("#888888", "--"),
         "tent": ("#2266aa", "-"), "tent, bfloat16": ("#dd8833", "--")}  # fmt: skip


def read(name: str) -> Any:  # noqa: ANN401 - as it was written
    """Published figures."""
    return json.loads((ROOT / "benchmarks/results" / name).read_text())


def drawn(figure: Figure, name: str) -> None:
    """Written, the same bytes for the same figures."""
    figure.savefig(ROOT / "docs" / name, metadata={"Date": None})


def bare(axes: Axes) -> None:
    """Without a frame."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def costs() -> Figure:
    """A bar for each method and side, in forwards of the frozen network."""
    rows = read("cost-resnet20.json")["rows"]
    methods = [name for name in rows if f"{name}, naive" in rows and "seconds" in rows[name]]
    unit = rows[PLAIN]["seconds"]
    figure = Figure(figsize=(8, 0.62 * len(methods) + 1.2), layout="constrained")
    axes = figure.subplots()
    for place, (suffix, (color, label)) in enumerate(SIDES.items()):
        spent = [rows[name + suffix]["seconds"] / unit for name in methods]
        bars = axes.barh([i + 0.28 * (place - 1) for i in range(len(methods))], spent, 0.28, color=color, label=label)
        axes.bar_label(bars, [f"{value:.2f}" for value in spent], padding=3, fontsize=8)
    axes.axvline(1.0, color="#444444", linewidth=1, linestyle="--")
    axes.set_yticks(range(len(methods)), methods)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("cost of a batch, in plain float32 forwards of the frozen network (logarithmic)")
    bare(axes)
    return figure


def growth() -> Figure:
    """Milliseconds an image as batches grow, a panel for each network."""
    networks = read("growth.json")["networks"]
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for axes, (name, rows) in zip(figure.subplots(1, len(networks), squeeze=False)[0], networks.items(), strict=True):
        sizes = [int(size) for size in rows]
        for who, (color, style) in LINES.items():
            axes.plot(sizes, [row[who] for row in rows.values()], style, color=color, marker="o", ms=3, label=who)
        axes.set_xscale("log")
        axes.set_ylim(0)
        axes.set_xticks(sizes, map(str, sizes))
        axes.minorticks_off()
        axes.set_title(name)
        axes.set_xlabel("images in a batch")
        axes.set_ylabel("ms an image")
        bare(axes)
    return figure


def main() -> None:
    """Both."""
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "speed", "font.size": 10})
    drawn(costs(), "speed.svg")
    drawn(growth(), "speed-growth.svg")


if __name__ == "__main__":
    main()
