"""What the guard costs: answering and learning from a batch with it, beside without.

    python benchmarks/guard_cost.py --out benchmarks/results/guard-cost.json

Two learners of each method take turns on the same batches, one thread, timed by what the thread computed. The guard
has the frozen model answer each batch too, compares, and sees at every eighth what a newborn adapter would have said.
"""

import argparse
import json
import time
from itertools import cycle, islice
from pathlib import Path
from statistics import mean

import torch
from development import CORRUPTIONS, WEIGHTS, add_arguments, classifier, stream

from adapters import METHODS
from tta_daemon.control.sections import Adapt, Guard
from tta_daemon.learner import Learner
from tta_daemon.model.load import Deployed

BATCH = 100
LABELS = tuple(map(str, range(10)))


def spent(learner: Learner, images: torch.Tensor) -> float:
    """Milliseconds that the thread computes for an answer and what is learned from it."""
    began = time.thread_time()
    learner.answer(images).learn()
    return 1000 * (time.thread_time() - began)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--methods", nargs="+", default=list(METHODS)[1:])
    parser.add_argument("--batches", type=int, default=32)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    deployed = Deployed(classifier(options.data, options.depth), LABELS, "", WEIGHTS[options.depth], (32, 32))
    held = stream(options.data)
    seen = [next(held.batches(name, BATCH))[0] for name in CORRUPTIONS]
    found = {}
    for method in options.methods:
        adapt = Adapt(method=method)
        off = Learner(deployed, adapt, 0.0, Guard(mode="off"))
        on = Learner(deployed, adapt, 1.0, Guard())
        pairs = [(spent(off, x), spent(on, x)) for x in islice(cycle(seen), options.batches)]
        alone, guarded = (mean(times) for times in zip(*pairs, strict=True))
        with torch.no_grad():
            forward = min(_forward(deployed, seen[0]) for _ in range(5))
        found[method] = {"forward_ms": round(forward, 1), "alone_ms": round(alone, 1), "guarded_ms": round(guarded, 1)}
        found[method] |= {"share": round(guarded / alone - 1, 3)}
        print(f"{method:8} {alone:8.1f} ms alone {guarded:8.1f} ms guarded  {guarded / alone - 1:+.0%}", flush=True)
    if options.out:
        options.out.write_text(json.dumps({"network": f"ResNet-{options.depth}", "methods": found}, indent=1) + "\n")


def _forward(deployed: Deployed, images: torch.Tensor) -> float:
    began = time.thread_time()
    deployed.classifier(images)
    return 1000 * (time.thread_time() - began)


if __name__ == "__main__":
    main()
