"""Draw docs/speed.svg from the published figures: what a batch costs, ours and naive.

python benchmarks/speed_chart.py
"""

import json
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
PLAIN = "frozen, torch"


def main() -> None:
    """One bar for each method and side, in forwards of the frozen network."""
    rows = json.loads((ROOT / "benchmarks/results/cost-resnet20.json").read_text())["rows"]
    methods = [name for name in rows if f"{name}, naive" in rows and "seconds" in rows[name]]
    unit = rows[PLAIN]["seconds"]
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "speed", "font.size": 10})
    figure = Figure(figsize=(8, 0.5 * len(methods) + 1.2), layout="constrained")
    axes = figure.subplots()
    for offset, suffix, color, label in ((0.2, ", naive", "#bbbbbb", "naive"), (-0.2, "", "#2266aa", "ours")):
        spent = [rows[name + suffix]["seconds"] / unit for name in methods]
        bars = axes.barh([i + offset for i in range(len(methods))], spent, 0.4, color=color, label=label)
        axes.bar_label(bars, [f"{value:.2f}" for value in spent], padding=3)
    axes.axvline(1.0, color="#444444", linewidth=1, linestyle="--")
    axes.set_yticks(range(len(methods)), methods)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("cost of a batch, in plain forwards of the frozen network (logarithmic)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(ROOT / "docs/speed.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
