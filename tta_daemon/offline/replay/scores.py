"""What answers are worth: error with its interval, harm against the source, calibration. Pure numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Bools: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.floating[Any]]
Verdict: TypeAlias = Literal["worse", "perhaps worse", "alike", "better"]

Z = 1.959964
"""The normal distribution's two-sided 95 % quantile."""

BINS = 15
"""Bins of equal width between confidence 0 and 1."""


class Interval(NamedTuple):
    """A 95 % interval."""

    low: float
    high: float


def wilson(wrong: int, images: int) -> Interval:
    """Where an error rate lies when ``wrong`` of ``images`` answers were wrong (Wilson 1927).

    >>> wilson(25, 100)
    Interval(low=0.1755, high=0.343)
    """
    if not images:
        return Interval(0.0, 1.0)
    rate, square = wrong / images, Z * Z
    center = rate + square / (2 * images)
    spread = Z * math.sqrt(rate * (1 - rate) / images + square / (4 * images * images))
    scale = 1 + square / images
    return Interval(round((center - spread) / scale, 4), round((center + spread) / scale, 4))


def paired(lost: int, won: int, images: int) -> Interval:
    """Where the difference of two error rates on the same images lies (Agresti and Min 2005).

    Args:
        lost: images that only the first model got wrong.
        won: images that only the second model got wrong.
        images: all of them.

    >>> paired(lost=30, won=10, images=1000)
    Interval(low=0.0076, high=0.0324)
    """
    total, more, less = images + 2, lost + 0.5, won + 0.5
    center = (more - less) / total
    spread = Z * math.sqrt(more + less - (more - less) ** 2 / total) / total
    return Interval(round(center - spread, 4), round(center + spread, 4))


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers of about the same confidence: how many, how sure, how often right."""

    images: int
    confidence: float
    accuracy: float


def reliability(confidence: Floats, right: Bools, bins: int = BINS) -> tuple[Bin, ...]:
    """The answers by their confidence, in ``bins`` of equal width; empty ones are left out."""
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    found = [(int(inside.sum()), inside) for inside in (place == n for n in range(bins))]
    return tuple(
        Bin(count, round(float(confidence[inside].mean()), 4), round(float(right[inside].mean()), 4))
        for count, inside in found
        if count
    )


def calibration_error(bins: Sequence[Bin]) -> float:
    """ECE: how far confidence and accuracy lie apart, on average over the images (Guo et al. 2017).

    >>> calibration_error([Bin(50, 0.9, 0.8), Bin(50, 0.6, 0.6)])
    0.05
    """
    images = sum(b.images for b in bins)
    return round(sum(b.images * abs(b.confidence - b.accuracy) for b in bins) / images, 4) if images else 0.0


@dataclass(frozen=True)
class Sheet:
    """What was answered to each image of a stream, in its order, and how good that was.

    Attributes:
        answered: False where a record was rejected; the other columns mean nothing there.
        right: whether the most probable class was the label.
        confidence: its probability.
        nll: minus the logarithm of the label's probability.
        brier: squared distance between the probabilities and the label, summed over the classes: 0 to 2.
    """

    answered: Bools
    right: Bools
    confidence: Floats
    nll: Floats
    brier: Floats

    @classmethod
    def empty(cls, images: int) -> "Sheet":
        """A sheet on which nothing is answered yet."""
        confidence, nll, brier = np.zeros((3, images), np.float32)
        answered, right = np.zeros((2, images), bool)
        return cls(answered, right, confidence, nll, brier)

    def at(self, chosen: Bools | NDArray[np.int64] | slice) -> "Sheet":
        """Some of the images."""
        answered, right = self.answered[chosen], self.right[chosen]
        return Sheet(answered, right, self.confidence[chosen], self.nll[chosen], self.brier[chosen])


@dataclass(frozen=True, slots=True)
class Against:
    """A method beside the frozen model, on the same images. Positive differences are harm.

    Attributes:
        difference: the method's error less the source's.
        low, high: where that lies, with 95 % confidence.
        negative_flips: share of images that the source had right and the method has wrong.
        positive_flips: the other way round.
        verdict: ``worse`` or ``better`` where chance does not explain it; else ``perhaps worse`` or ``alike``.
    """

    difference: float
    low: float
    high: float
    negative_flips: float
    positive_flips: float
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Score:
    """How good the answers to some images were. Rates lie between 0 and 1."""

    images: int
    error: float
    low: float
    high: float
    confidence: float
    ece: float
    nll: float
    brier: float
    against: Against


def score(sheet: Sheet, source: Sheet) -> Score:
    """The answers of one method beside those of the frozen model, over what both have answered."""
    both = sheet.answered & source.answered
    ours, theirs = sheet.at(both), source.at(both)
    images, wrong = len(ours.right), int((~ours.right).sum())
    lost, won = int((theirs.right & ~ours.right).sum()), int((ours.right & ~theirs.right).sum())
    low, high = wilson(wrong, images)
    count = max(images, 1)
    means = (float(column.sum(dtype=np.float64)) / count for column in (ours.confidence, ours.nll, ours.brier))
    confidence, nll, brier = (round(value, 4) for value in means)
    ece = calibration_error(reliability(ours.confidence, ours.right))
    against = beside(lost, won, images)
    return Score(images, round(wrong / count, 4), low, high, confidence, ece, nll, brier, against)


def beside(lost: int, won: int, images: int) -> Against:
    """A method that lost and won so many of the images against the source.

    >>> beside(lost=30, won=10, images=1000).verdict
    'worse'
    """
    low, high = paired(lost, won, images)
    count = max(images, 1)
    apart: Verdict = "perhaps worse" if lost > won else "alike"
    verdict: Verdict = "worse" if low > 0 else "better" if high < 0 else apart
    return Against(round((lost - won) / count, 4), low, high, round(lost / count, 4), round(won / count, 4), verdict)


def course(sheet: Sheet, windows: int) -> tuple[float, ...]:
    """Error in ``windows`` equal parts of the stream, one after the other; NaN where nothing was answered."""
    parts = (sheet.at(part) for part in np.array_split(np.arange(len(sheet.right)), windows))
    rates = (1.0 - float(p.right[p.answered].mean()) if p.answered.any() else math.nan for p in parts)
    return tuple(round(rate, 4) for rate in rates)
