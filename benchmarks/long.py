"""A long stream that nobody looks after: two hundred thousand images, the same weather again and again.

    python benchmarks/long.py --digits --out benchmarks/results/long-digits.json
    python benchmarks/long.py --rounds 13 --out benchmarks/results/long-resnet20.json

Each run is one replay of the daemon's loop, batcher, learner and guard over rounds of every world: 2,000 MNIST digits
in six of them (a network of 100,000 weights, scripts/train_digits), or 1,000 of CIFAR-10 in sixteen. The last two rows
learn thirty times too fast: what happens to somebody who chose a number badly.
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
from development import add_arguments
from harm import Subject, digital, images, photographic

from tta_daemon.control.config import Config
from tta_daemon.offline.replay.orders import parse, plan
from tta_daemon.offline.replay.run import run
from tta_daemon.offline.replay.streams import Stream


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


def follow(row: Row, subject: Subject, stream: Stream, rounds: int) -> dict[str, Any]:
    """The error over time, a point for each world, and how often the guard stepped in."""
    config = Config.model_validate(
        {
            "model": subject.model,
            "adapt": {"method": row.method, "options": row.options},
            "watch": {"sample": 0.0 if row.guard == "off" else 1.0},
            "guard": {"mode": row.guard},
        }
    )
    laid = plan(stream, parse(f"recurring:{rounds}"), seed=0)
    began = time.perf_counter()
    found = run(config, subject.deployed, stream, laid, lambda _: None)
    wrong, points = ~found.sheet.right, rounds * len(subject.album.worlds)
    course = [round(float(part.mean()), 4) for part in np.array_split(wrong, points)]
    return {
        "images": len(laid), "error": round(float(wrong.mean()), 4), "course": course,
        "by round": [round(float(wrong[laid.rounds == r].mean()), 4) for r in range(rounds)],
        "served": dict(found.served), "held": dict(found.held), "rewound": dict(found.rewound),
        "seconds": round(time.perf_counter() - began, 1),
    }  # fmt: skip


def main() -> None:
    """Run what the output file does not have yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--digits", action="store_true", help="the demo's digits and network instead of CIFAR-10")
    parser.add_argument("--rounds", type=int, default=17, help="through all the worlds")
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS))
    parser.add_argument("--out", type=Path, required=True, help="JSON file, added to")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    torch.set_num_threads(options.threads)
    subject = digital() if options.digits else photographic(options.data, options.depth)
    stream = images(subject.album, "every", len(subject.album.truth))
    found = json.loads(options.out.read_text()) if options.out.exists() else {"rows": {}}
    found |= {"network": subject.name, "worlds": list(subject.album.worlds)}
    for name in options.rows:
        if name not in found["rows"]:
            found["rows"][name] = follow(ROWS[name], subject, stream, options.rounds)
            options.out.write_text(json.dumps(found) + "\n")
            print(
                f"{name:26} {100 * found['rows'][name]['error']:5.1f} %  {found['rows'][name]['rewound']}", flush=True
            )


if __name__ == "__main__":
    main()
