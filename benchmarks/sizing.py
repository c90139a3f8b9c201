"""What to size a deployment by: for each method the processor time of an image, and the bytes of a stream.

    python benchmarks/sizing.py --json benchmarks/results/sizing-resnet20.json

The daemon's learner with its guard, learning from each batch, without transport (`shares.py` has that). A stream in
memory is what its adapter has learned and what its guard has seen; the guard's windows are filled, each in a process of
its own, for they are the larger the smaller the batches are.
"""

import argparse
import json
import multiprocessing
from pathlib import Path
from statistics import fmean

import contestants
import development
import torch

from tta_daemon.control.sections import Adapt
from tta_daemon.control.sections import Guard as Settings
from tta_daemon.control.stream_states import encoded
from tta_daemon.learner import Learner
from tta_daemon.model.load import Deployed
from tta_daemon.stream.records import Stream
from tta_daemon.watch.guard import CHECKS, LASTING, Guard

KIB = 1024
GUARDS = ((10, 1, 200), (10, 32, 200), (1000, 1, 50), (1000, 32, 50))
"""Classes, images of a batch, and guards to be made."""


def main() -> None:
    """Measure each method, then guards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    development.add_arguments(parser)
    parser.add_argument("--methods", nargs="+", default=["source", *contestants.METHODS])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the results here, too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    place = contestants.ground(f"resnet{options.depth}", options.data, options.batch)
    methods = {name: row for name in options.methods if (row := method(name, place, options.turns))}
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        guards = {f"{c} classes, batches of {size}": pool.apply(guard, (c, size, many)) for c, size, many in GUARDS}
    for name, row in guards.items():
        print(name, json.dumps(row), flush=True)
    if options.json:
        said = {"batch": options.batch, "depth": options.depth, "methods": methods, "guards": guards}
        options.json.write_text(json.dumps(said, indent=1) + "\n")


class Known(Deployed):
    """Knowledge of the source that costs what real knowledge costs."""

    def prior(self, method: str) -> object:
        """See `Deployed`."""
        return contestants.prior_of(method, self.classifier)


def method(name: str, place: contestants.Ground, turns: int) -> dict[str, float]:
    """The mean turn of one method after its first, for some learn in every other one, and its state after them."""
    classifier, side = place.network(), place.batches[0].shape[2]
    deployed = Known(classifier, tuple(map(str, range(classifier.num_classes))), "", "", (side, side))
    learner = Learner(deployed, Adapt(method=name), 1.0, Settings(loss=1.0, doubt=1.0))  # no batch is held back
    spent = []
    for turn in range(turns):
        images = place.batches[turn % len(place.batches)]
        spent.append(development.spent(lambda images=images: learner.answer(images).learn()) / len(images))
    memory = learner.adapter.dump()
    held = sum(tensor.numel() * tensor.element_size() for tensor in memory.values())
    state = learner.snapshot_of(Stream("camera-0"), learner.life, memory, {})
    row = {"cpu_ms_per_image": round(fmean(spent[1:]), 3), "learned_kib": round(held / KIB, 1),
           "saved_kib": round(len(encoded(state)) / KIB, 1)}  # fmt: skip
    print(name, json.dumps(row), flush=True)
    return row


def guard(classes: int, size: int, many: int) -> dict[str, float]:
    """Memory of a guard whose windows are full."""
    torch.set_num_threads(1)
    settings, chance = Settings(), torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(size, classes, generator=chance)
    made, before = [], development.resident_kib()
    for _ in range(many):
        made.append(one := Guard(settings))
        for _ in range(LASTING * settings.window // size + 2):
            one.weigh(logits, logits)
        for _ in range(CHECKS * settings.window // size + 2):
            one.check(logits, logits)
    saved = sum(tensor.numel() * tensor.element_size() for tensor in made[0].dump().values())
    return {"memory_kib": round((development.resident_kib() - before) / many, 1), "saved_kib": round(saved / KIB, 1)}


if __name__ == "__main__":
    main()
