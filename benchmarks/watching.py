"""What watching costs: a forward of the frozen model alone beside one that is looked into and made something of.

    python benchmarks/watching.py --out benchmarks/results/watching.json

Both take turns on one thread and are timed by what the thread computed, so that what else the machine does has little
part in it; the ratio is that of their medians.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import median

import torch
from development import spent
from watched import pictures, prior, shared_default

from tta_daemon.watch.metrics import Metrics
from tta_daemon.watch.view import Probe
from tta_daemon.watch.watching import Watch

ROUNDS = 60


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=shared_default())
    parser.add_argument("--priors", type=Path, default=Path("build/priors"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    images, _ = pictures(args.shared)
    found = {}
    for depth in (20, 56):
        deployed, known = prior(args.shared, depth, args.priors)
        for batch in (64, 200):
            shown, probe, watch, metrics = images["fog"][:batch], Probe(deployed.classifier), Watch(known), Metrics()

            def looked(shown=shown, probe=probe, watch=watch, metrics=metrics) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001 - bound at once
                view = probe(shown)
                watch.tell(metrics, watch.see(view, view.logits, time.monotonic(), None))

            with torch.no_grad():
                both = [
                    (spent(lambda net=deployed.classifier, x=shown: net(x)), spent(looked))  # type: ignore[misc]
                    for _ in range(ROUNDS)
                ]
            alone, watched = (median(times) for times in zip(*both, strict=True))
            name = f"ResNet-{depth}, batch {batch}"
            found[name] = {"forward_ms": round(alone, 1), "watched_ms": round(watched, 1)}
            found[name] |= {"ratio": round(watched / alone, 3)}
            print(f"{name:24} {alone:7.1f} ms alone {watched:7.1f} ms watched {watched / alone:6.2f}", flush=True)
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
