"""Four cameras in different weather, interleaved: one adapter for all of them, or one for each.

    python benchmarks/streams.py --json benchmarks/results/streams-resnet20.json

The cameras take turns image by image, each in a corruption of its own. The same daemon answers both ways: gathered
by `none`, a batch holds a quarter of each camera; by `key`, it is of one.
"""

import argparse
import json
from pathlib import Path

import development
import numpy as np
import structlog
import torch

from tta_daemon.control.config import Config
from tta_daemon.offline.replay.orders import parse, plan
from tta_daemon.offline.replay.run import run
from tta_daemon.offline.replay.streams import Stream
from tta_daemon.offline.replay.values import Arrays

METHODS = ("source", "norm", "tent", "rpl", "eata", "sar", "roid", "rotta")
WEATHER = ("gaussian_noise", "fog", "contrast", "jpeg_compression")


def main() -> None:
    """Answer the same images with every method, by ``none`` and by ``key``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    development.add_arguments(parser)
    parser.add_argument("--images", type=int, default=960, help="of each camera")
    parser.add_argument("--batch", type=int, default=32, help="images of one camera at a time")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--guards", nargs="+", default=("off", "guarded"), help="modes of the guard")
    parser.add_argument("--json", type=Path, help="write the results here, too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    deployed = development.deployed(options.data, options.depth)
    stream = interleaved(development.stream(options.data), options.images)
    laid = plan(stream, parse("recorded"), 0)
    rows = {}
    for method in options.methods:
        for guard in options.guards:
            for by in ("none", "key"):
                found = run(configured(method, by, guard, options.batch), deployed, stream, laid, lambda _: None)
                wrong = ~found.sheet.right
                each = {name: round(100 * float(wrong[np.array(stream.keys) == name].mean()), 2) for name in WEATHER}
                row = {"error": round(100 * float(wrong.mean()), 2), "cameras": each,
                       "seconds": round(found.seconds["total"], 1)}  # fmt: skip
                rows[f"{method} {guard} {by}"] = row
                print(f"{method:8} guard {guard:8} by {by:5} {row['error']:6.2f} %  {each}", flush=True)
    if options.json:
        said = {"images": options.images, "batch": options.batch, "cameras": WEATHER, "rows": rows}
        options.json.write_text(json.dumps(said, indent=1) + "\n")


def interleaved(pictures: development.Pictures, images: int) -> Stream:
    """An image of each camera in turn; every camera sees the test set in an order of its own."""
    truth = pictures.labels.numpy()
    shown, labels = [], []
    for camera, name in enumerate(WEATHER):
        order = np.random.default_rng(camera).permutation(len(truth))[:images]
        shown.append(pictures.pixels(name)[order])
        labels.append(truth[order])
    pixels = np.ascontiguousarray(np.stack(shown, 1)).reshape(-1, *shown[0].shape[1:])
    keys = WEATHER * len(shown[0])
    values, domain = Arrays(pixels), np.zeros(len(pixels), np.int64)
    return Stream("cameras", values, np.stack(labels, 1).reshape(-1), ("all",), domain, None, keys)


def configured(method: str, by: str, guard: str, batch: int) -> Config:
    """The same daemon, but for who shares an adapter."""
    return Config.model_validate({
        "adapt": {"method": method, "learn_from": batch},
        "batch": {"size": batch, "patience_s": 600.0},
        "limits": {"waiting_images": 8 * batch},
        "streams": {"by": by, "max_resident": 2 * len(WEATHER)},
        "guard": {"mode": guard},
        "kafka": {"input_topic": "images", "output_topic": "answers"},
    })  # fmt: skip


if __name__ == "__main__":
    main()
