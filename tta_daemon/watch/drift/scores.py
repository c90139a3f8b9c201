"""Distances between a window and the source, from sums alone. Divided by what chance would give, each is about 1."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from tta_daemon.watch.drift.profile import Profile
from tta_daemon.watch.view import DEPTHS

ENTROPY, FEATURES, LABELS = "entropy", "features", "predicted_labels"
SCORES = (*DEPTHS, ENTROPY, FEATURES, LABELS)

DISTINCT = 64.0
"""Images of one class that tell something new in a window; neighbors in a stream look alike, so more tell no more."""

Raw = Mapping[str, float]


def raw_scores(profile: Profile, sums: Tensor, images: int) -> Raw:
    """All scores of `SCORES` over ``images`` images with these ``sums``, not yet divided by what chance gives."""
    profile_columns, directions = profile.columns, profile.directions
    mean = sums[:profile_columns].double() / images
    classes = sums[profile_columns : profile_columns + profile.counts.numel()].double()
    scatter = sums[profile_columns + profile.counts.numel() :].double().view(directions, directions) / images
    noise = sampling_noise(classes, profile.counts)
    moments = profile.depth.numel()
    found = by_depth(mean[:moments], profile.depth, noise)
    found[ENTROPY] = abs(float(mean[moments])) / noise
    found[FEATURES] = math.sqrt(frechet(mean[moments + 1 :], scatter)) / noise
    found[LABELS] = jensen_shannon(classes, profile.counts.double())
    return found


def by_depth(distance: Tensor, depth: Tensor, noise: float) -> dict[str, float]:
    """Root mean square distance of the moments of each quarter of the network, in units of ``noise``."""
    found = {}
    for number, name in enumerate(DEPTHS):
        own = distance[depth == number]
        found[name] = float(own.square().mean().sqrt()) / noise if own.numel() else 0.0
    return found


def sampling_noise(classes: Tensor, counts: Tensor) -> float:
    """Standard error of a window's mean residual, in standard deviations of an image.

    Both sides are samples: the window's images, and the source images that each class mean was taken from.
    """
    share = classes / classes.sum()
    variance = 1.0 / classes.clamp(1.0, DISTINCT) + 1.0 / (counts.double() + 1.0)
    return math.sqrt(float((share.square() * variance).sum()))


def frechet(mean: Tensor, scatter: Tensor) -> float:
    """Squared Frechet distance between N(mean, scatter - mean mean') and N(0, 1).

    >>> round(frechet(torch.zeros(2), torch.eye(2)), 6), round(frechet(torch.ones(2), torch.eye(2) + 1), 6)
    (0.0, 2.0)
    """
    if mean.numel() == 0:
        return 0.0
    values = torch.linalg.eigvalsh(scatter - torch.outer(mean, mean)).clamp(min=0.0)
    return float(mean.square().sum() + (values.sqrt() - 1.0).square().sum())


def jensen_shannon(window: Tensor, source: Tensor) -> float:
    """Jensen-Shannon divergence in nats between two histograms of classes, each smoothed by half an image a class.

    >>> jensen_shannon(torch.tensor([5.0, 5.0]), torch.tensor([500.0, 500.0]))
    0.0
    """
    p, q = window + 0.5, source + 0.5
    p, q = p / p.sum(), q / q.sum()
    m = (p + q) / 2
    return max(0.0, float(((p * (p / m).log()).sum() + (q * (q / m).log()).sum()) / 2))
