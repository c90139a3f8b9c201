"""What the guard costs: answering and learning from a batch with it, beside without.

    python benchmarks/guard_cost.py --out benchmarks/results/guard-cost.json
    python benchmarks/guard_cost.py --methods rmt cotta --batches 20 --out benchmarks/results/guard-cost.json

Two learners of each method take turns on the same batches, one thread, timed by what the thread computed, on three
streams: one that stays as it is, one that changes with every tenth batch, one that changes with every batch. The guard
has the frozen model answer, tries the other statistics, and sees what a newborn adapter would have said: at every batch
where it is in doubt, else seldom. The mean over all batches counts, those that it looks at among them. Rows of other
methods that the file has stay.
"""

import argparse
import json
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import mean

import torch
from development import CORRUPTIONS, Pictures, add_arguments, deployed, spent, stream
from torch import Tensor

from adapters import METHODS
from tta_daemon.control.sections import Adapt, Guard
from tta_daemon.learner import Learner

BATCH = 100

LASTS = {"stays": 1_000_000, "every tenth batch": 10, "every batch": 1}
"""For how many batches a domain lasts."""


def both(learner: Learner, images: Tensor) -> None:
    """An answer, and what is learned from it."""
    learner.answer(images).learn()


def domains(held: Pictures, batches: int) -> Iterator[Tensor]:
    """Batches of one corruption after the other, again and again."""
    while True:
        for name in CORRUPTIONS:
            kept = [images for images, _ in held.batches(name, BATCH)]
            yield from (kept[at % len(kept)] for at in range(batches))


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--methods", nargs="+", default=list(METHODS)[1:])
    parser.add_argument("--batches", type=int, default=60, help="of each stream, ten more that are not counted first")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, held = deployed(options.data, options.depth), stream(options.data)
    known = json.loads(options.out.read_text())["methods"] if options.out and options.out.exists() else {}
    first = next(held.batches(CORRUPTIONS[0], BATCH))[0]
    with torch.no_grad():
        forward = min(spent(partial(model.classifier, first)) for _ in range(20))
    for method in options.methods:
        adapt = Adapt(method=method)
        for name, lasts in LASTS.items():
            off, on = Learner(model, adapt, 0.0, Guard(mode="off")), Learner(model, adapt, 1.0, Guard())
            seen = domains(held, lasts)
            for images in islice(seen, 10):
                both(on, images)
                both(off, images)
            pairs = [(spent(partial(both, off, x)), spent(partial(both, on, x))) for x in islice(seen, options.batches)]
            alone, guarded = (mean(times) for times in zip(*pairs, strict=True))
            row = {"alone_ms": round(alone, 1), "guarded_ms": round(guarded, 1), "share": round(guarded / alone - 1, 3)}
            row["forwards"] = round((guarded - alone) / forward, 2)
            known.setdefault(method, {})[name] = row
            print(
                f"{method:8} {name:18} {alone:7.1f} ms alone {guarded:7.1f} ms guarded {row['share']:+.0%}", flush=True
            )
            if options.out:
                found = {"network": f"ResNet-{options.depth}", "forward_ms": round(forward, 1), "methods": known}
                options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
