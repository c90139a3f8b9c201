"""Draw docs/long.svg from the published figures: the error over a long stream, with the guard and without.

python benchmarks/long_chart.py
"""

import json
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
DRAWN = {
    "source": ("#999999", "frozen model"),
    "tent": ("#dd8844", "Tent by itself"),
    "tent, guarded": ("#2266aa", "Tent, guarded"),
}
SHOWN = 12
"""Points that are averaged: one round of the weather."""


def main() -> None:
    """One line for each row, faint point by point and strong over a round."""
    rows = json.loads((ROOT / "benchmarks/results/long-digits.json").read_text())["rows"]
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "long", "font.size": 10})
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, (color, label) in DRAWN.items():
        course, images = 100 * np.array(rows[name]["course"]), rows[name]["images"]
        at = (np.arange(len(course)) + 0.5) * images / len(course) / 1000
        axes.plot(at, course, color=color, linewidth=0.6, alpha=0.35)
        round_by_round = np.convolve(course, np.ones(SHOWN) / SHOWN, "valid")
        axes.plot(at[SHOWN // 2 : SHOWN // 2 + len(round_by_round)], round_by_round, color=color, label=label)
    axes.set_xlabel("images, thousands")
    axes.set_ylabel("error, % (log)")
    axes.set_yscale("log")
    axes.set_yticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=3, loc="upper left", bbox_to_anchor=(0.0, 1.12))
    figure.savefig(ROOT / "docs/long.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
