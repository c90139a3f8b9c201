"""A long stream that nobody looks after: two hundred thousand digits, the same weather again and again.

    python benchmarks/long.py --out benchmarks/results/long-digits.json

Each run is one replay of the daemon's loop, batcher, learner and guard over 17 rounds of clear, fog, darkness, low
contrast, noise and blur, 2,000 held-out digits each (MNIST; a network of 100,000 weights, scripts/train_digits). The
last method learns ten times too fast: what happens to somebody who chose a number badly.
"""

import argparse
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch

from tta_daemon.control.config import Config
from tta_daemon.model.load import Deployed, load
from tta_daemon.offline import digits, scans
from tta_daemon.offline.replay.orders import parse, plan
from tta_daemon.offline.replay.run import run
from tta_daemon.offline.replay.streams import Stream
from tta_daemon.offline.replay.values import Arrays
from tta_daemon.offline.worlds import WORLDS, Stretch

POINTS = 204


@dataclass(frozen=True)
class Row:
    """One replay: a method, its options, and the guard's mode."""

    method: str
    guard: str
    options: dict[str, Any] = field(default_factory=dict)


ROWS = {
    "source": Row("source", "off"),
    "tent": Row("tent", "off"),
    "tent, guarded": Row("tent", "guarded"),
    "tent too fast": Row("tent", "off", {"lr": 0.03}),
    "tent too fast, guarded": Row("tent", "guarded", {"lr": 0.03}),
}


def weather() -> Stream:
    """Every held-out digit in every world."""
    _, held_out = scans.load()
    images, labels = held_out.images, held_out.labels
    shown = [Stretch(world, 1).see(images, np.random.default_rng(number)) for number, world in enumerate(WORLDS)]
    domain = np.repeat(np.arange(len(WORLDS)), len(labels))
    return Stream("digits", Arrays(np.concatenate(shown)), np.tile(labels, len(WORLDS)).astype(np.int64),
                  tuple(WORLDS), domain)  # fmt: skip


def config(row: Row) -> Config:
    """The demo's model, batches of 64."""
    model = {"factory": "tta_daemon.offline.digits:network", "weights": str(digits.WEIGHTS), "input_size": [28, 28],
             "mean": list(digits.MEAN), "std": list(digits.STD), "threads": 1}  # fmt: skip
    adapt = {"method": row.method, "options": row.options}
    watch = {"sample": 0.0 if row.guard == "off" else 1.0}
    return Config.model_validate({"model": model, "adapt": adapt, "watch": watch, "guard": {"mode": row.guard}})


def follow(row: Row, deployed: Deployed, stream: Stream, rounds: int) -> dict[str, Any]:
    """The error over time, and how often the guard stepped in."""
    laid = plan(stream, parse(f"recurring:{rounds}"), seed=0)
    began = time.perf_counter()
    found = run(config(row), deployed, stream, laid, lambda _: None)
    wrong = ~found.sheet.right
    course = [round(float(part.mean()), 4) for part in np.array_split(wrong, min(POINTS, len(wrong)))]
    return {
        "images": len(laid), "error": round(float(wrong.mean()), 4), "course": course,
        "by round": [round(float(wrong[laid.rounds == r].mean()), 4) for r in range(rounds)],
        "served": dict(found.served), "held": dict(found.held), "rewound": dict(found.rewound),
        "seconds": round(time.perf_counter() - began, 1),
    }  # fmt: skip


def main() -> None:
    """Run what the output file does not have yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=17, help="of 12,000 images")
    parser.add_argument("--out", type=Path, required=True, help="JSON file, added to")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    torch.set_num_threads(1)
    stream, deployed = weather(), load(config(ROWS["source"]).model)
    found = json.loads(options.out.read_text()) if options.out.exists() else {"rows": {}}
    for name, row in ROWS.items():
        if name not in found["rows"]:
            found["rows"][name] = follow(row, deployed, stream, options.rounds)
            options.out.write_text(json.dumps(found) + "\n")
            print(
                f"{name:26} {100 * found['rows'][name]['error']:5.1f} %  {found['rows'][name]['rewound']}", flush=True
            )


if __name__ == "__main__":
    main()
