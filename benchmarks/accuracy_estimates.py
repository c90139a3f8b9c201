"""Accuracy estimated without labels beside the truth: clean, fifteen corruptions, clean; adapting all the while.

    python benchmarks/accuracy_estimates.py --depth 20 --out benchmarks/results/estimates-resnet20.json

The prior is made from the 8,068 training images, which the networks have memorized. No test image or corruption of the
benchmark has a part in it. With --leave-out the lines of each corruption's family are fitted on synthetic shifts of
the other families alone: what is to be expected of shifts that nobody has thought of.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from watched import DOMAINS, config, pictures, prior, shared_default

import adapters
from tta_daemon.model.load import Deployed
from tta_daemon.offline.prepare import SHIFTED, SHIFTS, lesson, lines_of
from tta_daemon.offline.shifts import FAMILIES, shifted
from tta_daemon.watch.accuracy import Scored
from tta_daemon.watch.estimates import Estimate, Pair, estimates
from tta_daemon.watch.knowledge import Knowledge
from tta_daemon.watch.lines import Line
from tta_daemon.watch.tallies import Tallies
from tta_daemon.watch.view import HeadTap, Probe
from tta_daemon.watch.watching import Watch

BATCH, LABELED, DELAY = 64, 0.1, 256
FAMILY = {
    **dict.fromkeys(("gaussian_noise", "shot_noise", "impulse_noise"), "noise"),
    **dict.fromkeys(("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "pixelate"), "blur"),
    **dict.fromkeys(("snow", "frost", "fog", "brightness", "contrast"), "tone"),
    "elastic_transform": "form", "jpeg_compression": "code", "clean": "",
}  # fmt: skip
OPTIONS = {"norm": {"mode": "batch"}}

Lines = dict[str, Line]


def follow(  # noqa: PLR0913, PLR0917 - who answers what
    deployed: Deployed,
    known: Knowledge,
    method: str,
    images: dict[str, Tensor],
    labels: Tensor,
    other: dict[str, Lines],
) -> list[dict[str, object]]:
    """One row a domain: the true accuracies, every estimate at its end, with labels, and with other lines."""
    options = adapters.METHODS[method].options(**OPTIONS.get(method, {}))
    adapter = adapters.build(method, deployed.classifier, options)
    probe, tap, watch, helped = Probe(deployed.classifier), HeadTap(), Watch(known), Watch(known)
    rows, waiting, records = [], [], 0
    dice = torch.Generator().manual_seed(0)
    for domain in (*DOMAINS, "clean"):
        right = torch.zeros(2)
        for part, truth in zip(torch.split(images[domain], BATCH), torch.split(labels, BATCH), strict=True):
            with tap.on(adapter):
                answer = adapters.answer(adapter, part)
            view = probe(part)
            for each in (watch, helped):
                each.see(view, answer.logits, float(records), tap.behind(answer.logits))
            records += len(part)
            hits = [(logits.argmax(1) == truth) for logits in (view.logits, answer.logits)]
            right += torch.tensor([float(hit.sum()) for hit in hits])
            sampled = torch.rand(len(part), generator=dice) < LABELED
            waiting.append((records, int(sampled.sum()), *(int(hit[sampled].sum()) for hit in hits)))
            while waiting and waiting[0][0] + DELAY <= records:
                at, count, source, adapted = waiting.pop(0)
                if count:
                    helped.labeled(Scored(count, adapted, source, float(records - at)), float(records))
            answer.learn()
        source, adapted = (right / len(labels)).tolist()
        row: dict[str, object] = {"domain": domain, "source": round(source, 4), "adapted": round(adapted, 4)}
        row["estimates"] = _plain(watch.estimates())
        row["with labels"] = _plain(helped.estimates())
        if other:
            calibration = replace(known.calibration, lines=other[FAMILY[domain]])
            read = estimates(calibration, watch.tallies.shares(), known.manifest.classes, drifted=watch.drift.covariate)
            row["family left out"] = _plain(read)
        rows.append(row)
    return rows


def taught_without(deployed: Deployed, known: Knowledge, shared: Path) -> dict[str, Lines]:
    """Lines for each family, fitted on shifts of the others."""
    with np.load(shared / "data" / "cifar10_train_8068.npz") as held:
        pixels, labels = torch.from_numpy(held["images"]).permute(0, 3, 1, 2), torch.from_numpy(held["labels"]).long()
    calibration, probe = known.calibration, Probe(deployed.classifier)
    tallies = Tallies(calibration.threshold, calibration.edges, known.manifest.classes, BATCH, known.manifest.window)
    adapter = adapters.build("tent", deployed.classifier)
    found = {"": dict(calibration.lines)}
    for family in FAMILIES:
        taught = []
        for number in range(SHIFTS):
            dice = torch.Generator().manual_seed(number)
            which = torch.randperm(len(labels), generator=dice)[:SHIFTED]
            shown = pixels[which].float() / 255
            shown = shifted(shown, dice, leave_out=family) if number % 12 else shown
            taught.append(lesson(probe, adapter, tallies, shown, labels[which], BATCH))
        found[family] = dict(lines_of(taught, known.manifest.classes)[0])
    return found


def errors(rows: Iterable[dict[str, object]], which: str) -> dict[str, dict[str, float]]:
    """Mean absolute error of each estimator in points, over all domains and where it calls itself valid."""
    away: dict[str, list[tuple[float, bool, bool]]] = defaultdict(list)
    for row in rows:
        for name, said in row.get(which, {}).items():  # type: ignore[attr-defined]
            truth = float(row[name.split("/")[1]])  # type: ignore[arg-type]
            if said["value"] is not None:
                inside = said["low"] <= truth <= said["high"]
                away[name].append((abs(said["value"] - truth), not said["doubt"], inside))
    table = {}
    for name, all_of in away.items():
        valid = [error for error, sound, _ in all_of if sound]
        table[name] = {
            "mae": round(100 * sum(error for error, _, _ in all_of) / len(all_of), 2),
            "worst": round(100 * max(error for error, _, _ in all_of), 2),
            "valid": len(valid),
            "mae where valid": round(100 * sum(valid) / len(valid), 2) if valid else None,
            "in interval": round(sum(inside for _, _, inside in all_of) / len(all_of), 2),
        }  # fmt: skip
    return table  # type: ignore[return-value]


def _plain(said: dict[Pair, Estimate]) -> dict[str, dict[str, object]]:
    def number(x: float) -> float | None:
        return None if x != x else round(x, 4)  # noqa: PLR0124 - NaN

    return {
        f"{estimator}/{model}": {
            "value": number(e.value),
            "low": number(e.low),
            "high": number(e.high),
            "doubt": e.doubt,
        }
        for (estimator, model), e in said.items()
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=shared_default())
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--priors", type=Path, default=Path("build/priors"))
    parser.add_argument("--methods", nargs="+", default=["norm", "tent", "eata"])
    parser.add_argument("--leave-out", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    deployed, known = prior(args.shared, args.depth, args.priors)
    config(args.shared, args.depth)
    images, labels = pictures(args.shared)
    other = taught_without(deployed, known, args.shared) if args.leave_out else {}
    result: dict[str, object] = {"network": f"ResNet-{args.depth}", "batch": BATCH, "methods": {}}
    for method in args.methods:
        rows = follow(deployed, known, method, images, labels, other)
        kinds = ["estimates", "with labels", *(["family left out"] if other else [])]
        table = {kind: errors(rows, kind) for kind in kinds}
        result["methods"][method] = {"errors in points": table, "domains": rows}  # type: ignore[index]
        print(method, json.dumps(table, indent=1), flush=True)
        if args.out:
            args.out.write_text(json.dumps(result, indent=None, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
