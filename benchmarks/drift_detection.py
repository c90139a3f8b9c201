"""How soon drift is seen, how often it is seen where there is none, and whether a change of labels is taken for it.

    python benchmarks/drift_detection.py --depth 20 --out benchmarks/results/drift-resnet20.json

The prior is made from 8,068 training images; the streams are drawn, with repetition, from 1,000 clean test images and
their corruptions. A stream of 100,000 records therefore holds each image about a hundred times: rare images are not
rarer than in the sample, and how far the sample itself lies from the source stays in every window.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from watched import DOMAINS, picked, pictures, prior, shared_default, views

from tta_daemon.watch.drift.alarms import Alarms
from tta_daemon.watch.drift.detectors import COVARIATE, Drift
from tta_daemon.watch.drift.null import STATISTICS
from tta_daemon.watch.drift.scores import ENTROPY
from tta_daemon.watch.events import Happening
from tta_daemon.watch.knowledge import Knowledge
from tta_daemon.watch.view import SourceView

BATCH, RECORDS, SEGMENT = 64, 100_000, 500


def order(labels: Tensor, records: int, *, correlated: bool, dice: torch.Generator) -> Iterator[Tensor]:
    """Indices of batches: uniform, or with proportions of classes drawn anew from Dirichlet(0.1) every 500 records."""
    members = [(labels == c).nonzero().flatten() for c in range(int(labels.max()) + 1)]
    ready = torch.zeros(0, dtype=torch.int64)
    for _ in range(records // BATCH):
        while len(ready) < BATCH:
            if correlated:
                gammas = torch._standard_gamma(torch.full((len(members),), 0.1), generator=dice)  # noqa: SLF001 - the only one with a generator
                classes = torch.multinomial(gammas + 1e-12, SEGMENT, replacement=True, generator=dice)
                more = [members[c][int(torch.randint(len(members[c]), (), generator=dice))] for c in classes.tolist()]
                ready = torch.cat((ready, torch.stack(more)))
            else:
                ready = torch.cat((ready, torch.randint(len(labels), (SEGMENT,), generator=dice)))
        yield ready[:BATCH]
        ready = ready[BATCH:]


class Watcher:
    """Drift and alarms as `Watch` has them, without the estimates."""

    def __init__(self, known: Knowledge) -> None:
        self.drift = Drift(known.profile, known.null, known.manifest.block, known.manifest.window)
        self.alarms = {name: Alarms() for name in (STATISTICS, ENTROPY)}
        self.told: Counter[str] = Counter()
        self.first: dict[str, int] = {}
        self._since = 0

    def begin(self) -> None:
        """Count records from here."""
        self._since, self.first = self.drift.seen, {}

    def see(self, view: SourceView) -> None:
        """Watch a batch, and note what is told for the first time."""
        blocks = self.drift.blocks_seen
        names = [event.kind.value for event in self.drift.see(view, 0.0)]
        if self.drift.blocks_seen > blocks:
            names += [name for name in COVARIATE if self.drift.scores[name].drifted]
            for signal, alarms in self.alarms.items():
                names += [f"{raised} on {signal}" for raised in alarms.see(self.drift.newest[signal])]
        for name in names:
            self.first.setdefault(name, self.drift.seen - self._since)
        self.told.update(set(names))


def false_alarms(known: Knowledge, clean: SourceView, labels: Tensor, records: int) -> dict[str, dict[str, float]]:
    """What is told of clean records, per 100,000 of them."""
    found = {}
    for name, correlated in (("uniform", False), ("dirichlet 0.1", True)):
        watcher = Watcher(known)
        for batch in order(labels, records, correlated=correlated, dice=torch.Generator().manual_seed(1)):
            watcher.see(picked(clean, batch))
        found[name] = {kind: round(count * 1e5 / records, 2) for kind, count in sorted(watcher.told.items())}
    return found


def delays(
    known: Knowledge, seen: dict[str, SourceView], labels: Tensor, seeds: int = 5
) -> dict[str, dict[str, float]]:
    """Records of each corruption until each detector tells; medians over streams that begin clean."""
    table = {}
    for domain in DOMAINS[1:]:
        runs: list[dict[str, int]] = []
        for seed in range(seeds):
            dice, watcher = torch.Generator().manual_seed(seed), Watcher(known)
            for batch in order(labels, 40 * BATCH, correlated=False, dice=dice):
                watcher.see(picked(seen["clean"], batch))
            watcher.begin()
            for batch in order(labels, 60 * BATCH, correlated=False, dice=dice):
                watcher.see(picked(seen[domain], batch))
            told = dict(watcher.first)
            watcher.begin()
            for batch in order(labels, 40 * BATCH, correlated=False, dice=dice):
                watcher.see(picked(seen["clean"], batch))
            told["clean again"] = watcher.first.get(Happening.DRIFT_ENDED, -1)
            runs.append(told)
        names = sorted({name for run in runs for name in run})
        table[domain] = {name: sorted(run.get(name, 10**9) for run in runs)[seeds // 2] for name in names}
        table[domain] = {name: value if value < 10**9 else -1 for name, value in table[domain].items()}
    return table


def transitions(known: Knowledge, seen: dict[str, SourceView]) -> dict[str, object]:
    """A continual stream, clean, fifteen corruptions, clean, 1,000 records each: which changes are told, how late."""
    watcher, found, spurious = Watcher(known), {}, 0
    for domain in (*DOMAINS, "clean"):
        watcher.begin()
        count = Counter(watcher.told)
        for batch in torch.split(torch.arange(len(seen[domain])), BATCH):
            watcher.see(picked(seen[domain], batch))
        told = watcher.told[Happening.DOMAIN_CHANGED] - count[Happening.DOMAIN_CHANGED]
        found[domain if domain not in found else "clean again"] = watcher.first.get(Happening.DOMAIN_CHANGED, -1)
        spurious += max(0, told - 1)
    return {"records until domain_changed": found, "further domain_changed": spurious}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=shared_default())
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--priors", type=Path, default=Path("build/priors"))
    parser.add_argument("--records", type=int, default=RECORDS)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    deployed, known = prior(args.shared, args.depth, args.priors)
    images, labels = pictures(args.shared)
    seen = views(deployed, images)
    result = {
        "network": f"ResNet-{args.depth}", "batch": BATCH, "window": known.manifest.window,
        "per 100,000 clean records": false_alarms(known, seen["clean"], labels, args.records),
        "records until": delays(known, seen, labels),
        "continual": transitions(known, seen),
    }  # fmt: skip
    text = json.dumps(result, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
