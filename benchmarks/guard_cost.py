"""What the guard costs: answering and learning from a batch with it, beside without.

    python benchmarks/guard_cost.py --out benchmarks/results/guard-cost.json
    python benchmarks/guard_cost.py --sample 0.25 --methods norm tent eata --out benchmarks/results/guard-cost.json

Two learners of each method take turns on the same batches, one thread, timed by what the thread computed. The guard
has the frozen model answer each batch too, compares, tries mixed norms, and sees at every eighth what a newborn adapter
would have said. Rows of other methods or shares that the file has stay.
"""

import argparse
import json
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from statistics import mean

import torch
from development import CORRUPTIONS, add_arguments, deployed, spent, stream

from adapters import METHODS
from tta_daemon.control.sections import Adapt, Guard
from tta_daemon.learner import Learner

BATCH = 100


def both(learner: Learner, images: torch.Tensor) -> None:
    """An answer, and what is learned from it."""
    learner.answer(images).learn()


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--methods", nargs="+", default=list(METHODS)[1:])
    parser.add_argument("--batches", type=int, default=32)
    parser.add_argument("--sample", type=float, default=1.0, help="watch.sample: share of the batches that are weighed")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = deployed(options.data, options.depth)
    held = stream(options.data)
    seen = [next(held.batches(name, BATCH))[0] for name in CORRUPTIONS]
    known = json.loads(options.out.read_text())["methods"] if options.out and options.out.exists() else {}
    found = {}
    for method in options.methods:
        adapt = Adapt(method=method)
        off = Learner(model, adapt, 0.0, Guard(mode="off"))
        on = Learner(model, adapt, options.sample, Guard())
        pairs = [
            (spent(partial(both, off, x)), spent(partial(both, on, x))) for x in islice(cycle(seen), options.batches)
        ]
        alone, guarded = (mean(times) for times in zip(*pairs, strict=True))
        with torch.no_grad():
            forward = min(spent(partial(model.classifier, seen[0])) for _ in range(5))
        name = method if options.sample == 1 else f"{method}, watch.sample = {options.sample:g}"
        found[name] = {"forward_ms": round(forward, 1), "alone_ms": round(alone, 1), "guarded_ms": round(guarded, 1)}
        found[name] |= {"share": round(guarded / alone - 1, 3)}
        print(f"{method:8} {alone:8.1f} ms alone {guarded:8.1f} ms guarded  {guarded / alone - 1:+.0%}", flush=True)
    if options.out:
        options.out.write_text(
            json.dumps({"network": f"ResNet-{options.depth}", "methods": known | found}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
