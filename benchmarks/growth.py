"""What an image costs as batches and networks grow, frozen and learning, in either precision.

    python benchmarks/growth.py --out benchmarks/results/growth.json

Seconds of processor time on one thread; all take turns on the same images, the fastest turn counts.
"""

import argparse
import json
import os
from pathlib import Path

import contestants
import torch
from contestants import Ground
from cost import HALF, compete
from development import add_arguments

SIZES = {"resnet20": (1, 8, 40, 200, 500), "resnet56": (1, 8, 40, 200, 500), "lite0": (1, 8, 32)}
"""Images in a batch."""


def entrants(place: Ground) -> dict[str, contestants.Contestant]:
    """Frozen, and learning by the lightest method."""
    half = contestants.halved(place)
    return {
        "frozen": contestants.no_gradient(place.network()),
        f"frozen{HALF}": contestants.no_gradient(half.network()),
        "tent": contestants.ours("tent", place),
        f"tent{HALF}": contestants.ours("tent", half),
    }


def measured(name: str, data: Path, size: int, images: int) -> dict[str, float]:
    """Milliseconds an image; small batches get more turns."""
    place = contestants.ground(name, data, size)
    rounds = max(3, min(40, images // size))
    rows = compete(entrants(place), Ground(place.network, place.batches[:3]), rounds)
    return {who: 1000 * row["seconds"] / size for who, row in rows.items()}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--images", type=int, default=1000, help="to answer by each, about")
    parser.add_argument("--networks", nargs="*", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = {
        name: {size: measured(name, options.data, size, options.images) for size in SIZES[name]}
        for name in options.networks
    }
    for name, rows in found.items():
        for size, row in rows.items():
            cells = "".join(f"{who} {spent:>8.3f}   " for who, spent in row.items())
            print(f"{name:<9}{size:>4} images   {cells}tent / frozen {row['tent'] / row['frozen']:.2f}")
    if options.out:
        about = {"threads": options.threads, "torch": torch.__version__, "cores": os.cpu_count()}
        options.out.write_text(json.dumps({**about, "load": os.getloadavg(), "networks": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
