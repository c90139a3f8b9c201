"""Draw docs/long.svg from the published figures: the error over long streams, with the guard and without.

python benchmarks/long_chart.py
"""

import json
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
STREAMS = {
    "resnet20": "CIFAR-10, clean and in 15 corruptions; ResNet-20",
    "digits": "MNIST digits in six kinds of weather",
}
DRAWN = {
    "source": ("#777777", "-", "frozen model"),
    "tent": ("#dd8844", "-", "Tent by itself"),
    "tent, guarded": ("#2266aa", "-", "Tent, guarded"),
    "tent too fast": ("#dd8844", ":", "too fast, by itself"),
    "tent too fast, guarded": ("#2266aa", ":", "too fast, guarded"),
}


def main() -> None:
    """A panel for each stream, a line for each row: the error of each round."""
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "long", "font.size": 10})
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, len(STREAMS)), STREAMS.items(), strict=True):
        rows = json.loads((ROOT / f"benchmarks/results/long-{name}.json").read_text())["rows"]
        for row, (color, style, label) in DRAWN.items():
            by_round, images = 100 * np.array(rows[row]["by round"]), rows[row]["images"]
            at = (np.arange(len(by_round)) + 0.5) * images / len(by_round) / 1000
            axes.plot(at, by_round, color=color, linestyle=style, label=label)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("images, thousands")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("error of a round, %")
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), frameon=False, ncols=len(DRAWN), loc="outside lower center"
    )
    figure.savefig(ROOT / "docs/long.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
