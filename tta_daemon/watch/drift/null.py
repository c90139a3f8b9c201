"""What the scores are where nothing has changed: drawn anew from the source, at the sizes that will be watched.

Thresholds lie where chance comes about once in a million images. That is further out than draws reach, so the upper
tenth of them is continued by an exponential tail, which errs on the side of silence: tails of means are lighter.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from tta_daemon.watch.drift.profile import Profile
from tta_daemon.watch.drift.scores import LABELS, SCORES, Raw, raw_scores
from tta_daemon.watch.view import DEPTHS

STATISTICS = "bn_statistics"
CHANGE = "change"
SCALED = (STATISTICS, *SCORES[len(DEPTHS) :])
"""The scores that are compared with a threshold; `STATISTICS` is the largest of the four depths."""

QUIET_IMAGES = 1_000_000
"""Images of the source among which one false alarm is expected, of all detectors and both scales together."""

CAUTION = 2.0
"""Standard errors by which the slope of a tail is taken to be flatter than it was drawn."""

CONCENTRATION = 0.1
"""Half of the draws have their classes in proportions drawn from a Dirichlet of this parameter."""


@dataclass(frozen=True, slots=True)
class Null:
    """For each window size: what is typical of each of `SCORES`, and the thresholds of `SCALED`, in units of typical.

    Attributes:
        sizes: in images, ascending, S.
        typical: medians of the raw scores, S x 7.
        limits: thresholds, S x 4.
        change: threshold of the distance between two neighboring blocks, in units of chance.
    """

    sizes: Tensor
    typical: Tensor
    limits: Tensor
    change: float

    def scaled(self, raw: Raw, images: int) -> dict[str, float]:
        """Scores in units of what is typical of the source at this size."""
        row = self.typical[self._row(images)].tolist()
        return scaled(raw, dict(zip(SCORES, row, strict=True)))

    def limit(self, images: int) -> dict[str, float]:
        """Thresholds at this size."""
        return dict(zip(SCALED, self.limits[self._row(images)].tolist(), strict=True))

    def _row(self, images: int) -> int:
        return max(0, int((self.sizes <= images).sum()) - 1)


def scaled(raw: Raw, typical: Mapping[str, float]) -> dict[str, float]:
    """Raw scores over typical ones; of the depths also their largest."""
    found = {name: raw[name] / max(typical[name], 1e-9) for name in SCORES}
    return found | {STATISTICS: max(found[name] for name in DEPTHS)}


def sizes_between(block: int, window: int) -> list[int]:
    """The block, four times as large, and so on until the window.

    >>> sizes_between(64, 1000)
    [64, 256, 1000]
    """
    sizes = [block]
    while sizes[-1] * 4 <= window:
        sizes.append(sizes[-1] * 4)
    return [*sizes, window] if window > sizes[-1] else sizes


def null_of(  # noqa: PLR0913 - the source, and how it is drawn from
    profile: Profile,
    worlds: Sequence[tuple[Tensor, Tensor]],
    sizes: Sequence[int],
    draws: int = 1000,
    seed: int = 0,
    *,
    chance: float = 0.0,
) -> Null:
    """Draw windows from the source again and again.

    Args:
        profile: of the source.
        worlds: residuals, N x K, and predicted classes, N, of the source; more than one where it was also looked at
            under conditions that are to count as no drift. Each window is drawn from one of them.
        sizes: windows, in images, ascending; the first is the block.
        draws: windows of each size.
        seed: of the draws.
        chance: of a false alarm of one detector at one look; what `QUIET_IMAGES` asks for where 0.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = {size: _draw(profile, worlds, size, draws, generator) for size in sizes}
    chance = chance or sizes[0] / QUIET_IMAGES / (len(SCALED) + 1) / 2
    typical, limits = [], []
    for size in sizes:
        raw = [raw_scores(profile, sums, size) for sums, _ in drawn[size]]
        natural = [scores for scores, (_, mixed) in zip(raw, drawn[size], strict=True) if not mixed]
        middle = {name: _median([s[name] for s in (natural if name == LABELS else raw)]) for name in SCORES}
        by_name = {name: [scaled(s, middle)[name] for s in (natural if name == LABELS else raw)] for name in SCALED}
        typical.append([middle[name] for name in SCORES])
        limits.append([tail(by_name[name], chance) for name in SCALED])
    apart = neighbors([sums for sums, _ in drawn[sizes[0]]], profile, sizes[0])
    return Null(torch.tensor(list(sizes)), torch.tensor(typical), torch.tensor(limits), tail(apart, chance))


def neighbors(blocks: Sequence[Tensor], profile: Profile, size: int) -> list[float]:
    """Distances between each block and the next, largest over the depths, in units of chance."""
    return [apart(one, size, other, size, profile) for one, other in pairwise(blocks)]


def apart(one: Tensor, images: int, other: Tensor, others: int, profile: Profile) -> float:
    """Distance between the moments of two sets of images, of the depth where it is largest, in units of chance."""
    moments = profile.depth.numel()
    if moments == 0:
        return 0.0
    difference = one[:moments] / images - other[:moments] / others
    noise = math.sqrt(1.0 / images + 1.0 / others)
    return max(
        float(difference[profile.depth == d].square().mean().sqrt()) / noise
        for d in range(int(profile.depth.max()) + 1)
        if bool((profile.depth == d).any())
    )


def tail(values: Sequence[float], chance: float, share: float = 0.1) -> float:
    """The value exceeded with probability ``chance``: the upper ``share`` of ``values``, continued exponentially.

    >>> exponential = [-math.log((i + 0.5) / 1000) for i in range(1000)]
    >>> 13.8 < tail(exponential, 1e-6) < 17
    True
    """
    ordered = sorted(values)
    start = ordered[int(len(ordered) * (1 - share))]
    beyond = [value - start for value in ordered if value > start]
    mean = sum(beyond) / len(beyond) * (1.0 + CAUTION / math.sqrt(len(beyond))) if beyond else 0.0
    return start + mean * max(0.0, math.log(share / chance))


def _draw(
    profile: Profile, worlds: Sequence[tuple[Tensor, Tensor]], size: int, draws: int, generator: torch.Generator
) -> list[tuple[Tensor, bool]]:
    """Sums over drawn windows, and whether their classes came in proportions of their own."""
    classes = profile.counts.numel()
    members = [[(labels == c).nonzero().flatten() for c in range(classes)] for _, labels in worlds]
    found = []
    for number in range(draws):
        world = int(torch.randint(len(worlds), (), generator=generator))
        residuals, labels = worlds[world]
        mixed = number % 2 == 1
        if mixed:
            share = _dirichlet(classes, generator) * torch.tensor([len(m) > 0 for m in members[world]])
            each = torch.multinomial(share + 1e-12 * (share > 0), size, replacement=True, generator=generator)
            picked = torch.cat([
                members[world][c][torch.randint(len(members[world][c]), (int(count),), generator=generator)]
                for c, count in enumerate(torch.bincount(each, minlength=classes).tolist()) if count
            ])  # fmt: skip
        else:
            picked = torch.randint(len(labels), (size,), generator=generator)
        found.append((profile.summed(residuals[picked], torch.bincount(labels[picked], minlength=classes)), mixed))
    return found


def _dirichlet(classes: int, generator: torch.Generator) -> Tensor:
    """Proportions of classes; none is exactly zero."""
    gammas = torch._standard_gamma(torch.full((classes,), CONCENTRATION), generator=generator)  # noqa: SLF001 - the only one with a generator
    return gammas / gammas.sum() if float(gammas.sum()) > 0 else torch.full((classes,), 1.0 / classes)


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]
