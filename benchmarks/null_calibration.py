"""False alarms of null-calibrated thresholds for 10, 100 and 1000 classes and windows of 64, 200 and 1024 images.

    python benchmarks/null_calibration.py --out benchmarks/results/null-calibration.json

Everything is synthetic: labels are uniform, moments and features normal with class means of their own. The source
has 50,000 images; windows are drawn afresh from the population, not from the sample. A conventional rule, an alarm
where the population stability index is above 0.25, stands beside for comparison; nothing in the product uses it.
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
from torch import Tensor

from tta_daemon.watch.drift.null import SCALED, Null, null_of
from tta_daemon.watch.drift.profile import Profile, profile_of
from tta_daemon.watch.drift.scores import LABELS, raw_scores
from tta_daemon.watch.view import SourceView

SOURCE, MOMENTS, WIDTH, WINDOWS = 50_000, 64, 64, 4000


class Population:
    """Images that never run out."""

    def __init__(self, classes: int, seed: int) -> None:
        self.classes = classes
        self.dice = torch.Generator().manual_seed(seed)
        self.moments = 0.7 * torch.randn(classes, MOMENTS, generator=self.dice)
        self.features = 1.5 * torch.randn(classes, WIDTH, generator=self.dice)

    def draw(self, images: int) -> SourceView:
        """So many images, their classes uniform."""
        classes = torch.randint(self.classes, (images,), generator=self.dice)
        logits = torch.randn(images, self.classes, generator=self.dice)
        certainty = 4.0 + 10.0 * torch.rand(images, generator=self.dice)
        logits[torch.arange(images), classes] = certainty + math.log(self.classes)
        moments = self.moments[classes] + torch.randn(images, MOMENTS, generator=self.dice)
        features = self.features[classes] + torch.randn(images, WIDTH, generator=self.dice)
        return SourceView(logits, features, moments)


def rates(classes: int, images: int, windows: int, seed: int = 0) -> dict[str, float]:
    """Share of windows without any change that are above each threshold."""
    population = Population(classes, seed)
    view = population.draw(SOURCE)
    profile = profile_of(view, torch.arange(MOMENTS) * 4 // MOMENTS, seed)
    worlds = [(profile.residuals(view), view.logits.argmax(1))]
    null = null_of(profile, worlds, [images], seed=seed)
    del view, worlds
    over = dict.fromkeys(SCALED, 0)
    nominal = {f"{name} beyond its 99 % quantile": 0 for name in SCALED}
    within_reach = _within_reach(profile, population, images)
    quantiles = within_reach.limit(images)
    psi = 0
    for _ in range(windows):
        sums = profile.sums(population.draw(images))
        raw = raw_scores(profile, sums, images)
        scores, again = null.scaled(raw, images), within_reach.scaled(raw, images)
        for name, limit in null.limit(images).items():
            over[name] += scores[name] > limit
            nominal[f"{name} beyond its 99 % quantile"] += again[name] > quantiles[name]
        psi += stability(sums[profile.columns : profile.columns + classes], profile.counts) > 0.25  # noqa: PLR2004 - the rule
    shares = {name: count / windows for name, count in (over | nominal).items()}
    return shares | {"PSI above 0.25": psi / windows, f"{LABELS} typical": float(null.typical[0, -1])}


def _within_reach(profile: Profile, population: Population, images: int) -> Null:
    """A null whose thresholds are the 99 % quantiles: the same procedure where a false alarm can be measured."""
    view = population.draw(SOURCE // 2)
    return null_of(profile, [(profile.residuals(view), view.logits.argmax(1))], [images], seed=9, chance=0.01)


def stability(window: Tensor, source: Tensor) -> float:
    """The population stability index of two histograms, smoothed by half an image a class."""
    q, p = (window.double() + 0.5), (source.double() + 0.5)
    q, p = q / q.sum(), p / p.sum()
    return float(((q - p) * (q / p).log()).sum())


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=WINDOWS)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    table: dict[str, dict[str, float]] = {}
    for classes in (10, 100, 1000):
        for images in (64, 200, 1024):
            began = time.monotonic()
            windows = args.windows // (4 if classes * images > 100_000 else 1)  # noqa: PLR2004 - large draws
            table[f"{classes} classes, {images} images"] = {"windows": windows, **rates(classes, images, windows)}
            print(
                classes,
                images,
                json.dumps(table[f"{classes} classes, {images} images"]),
                round(time.monotonic() - began),
                flush=True,
            )
    if args.out:
        args.out.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
