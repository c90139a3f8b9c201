"""Accuracy without labels: of the frozen source model and of the adapted one.

ATC: Garg et al. 2022. DoC: Guillory et al. 2021. Importance re-weighting by confidence: Chen et al. 2021. AETTA: Lee
et al. 2024. Agreement of two networks: Jiang et al. 2022; here of the source model and the adapted one, read by a line
that was fitted on synthetic shifts of the source when the prior was made (Deng and Zheng 2021).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from adapters.parts.objectives import entropy
from tta_daemon.watch.lines import Line
from tta_daemon.watch.tallies import BINS

FEWEST = 50
"""Images below which no estimate is valid."""

SURE = 1.96
"""Standard deviations either side of a 95 % interval."""

UNLABELED = "the prior was made without labels"
OFF_SOURCE = "the stream has left the source domain, where this was calibrated"
FEW = f"fewer than {FEWEST} images"
OUTSIDE = "beyond all shifts that the prior was made with"
UNTAUGHT = "the prior knows no line for this method"


class Estimator(StrEnum):
    """How an accuracy was estimated: a closed set, because it becomes a metric's label."""

    ATC = "atc"
    DOC = "doc"
    IMPORTANCE = "importance"
    AGREEMENT = "agreement"
    AETTA = "aetta"
    COMBINED = "combined"


OF_SOURCE = (Estimator.ATC, Estimator.DOC, Estimator.IMPORTANCE, Estimator.AGREEMENT)
OF_ADAPTED = (Estimator.AGREEMENT, Estimator.AETTA, Estimator.COMBINED)
Pair = tuple[Estimator, str]

PAIRS: tuple[Pair, ...] = (*((e, "source") for e in OF_SOURCE), *((e, "adapted") for e in OF_ADAPTED))
"""Every estimator with the model that it judges."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """An accuracy, the 95 % interval around it, the images behind it, and why it is not to be trusted, if so."""

    value: float
    low: float
    high: float
    images: int
    doubt: str = ""

    @property
    def valid(self) -> bool:
        """Whether there is no doubt."""
        return not self.doubt


@dataclass(frozen=True, slots=True)
class Calibration:
    """What estimators must know of the source; NaN accuracy where its labels were not known.

    Attributes:
        accuracy: of the source model on the source.
        confidence: mean, there.
        threshold: entropy that as many source images exceed as are wrong (ATC).
        edges: inner borders of the confidence bins, 9.
        bins: accuracy in each, 10.
        images: labeled images behind all this.
        lines: by `Estimator` and model, "agreement/source"; none where the method answers as the source does.
        aetta_error: root mean square error of AETTA on the synthetic shifts.
    """

    accuracy: float
    confidence: float
    threshold: float
    edges: Tensor
    bins: Tensor
    images: int
    lines: Mapping[str, Line]
    aetta_error: float


def calibrate(logits: Tensor, labels: Tensor | None, lines: Mapping[str, Line], aetta_error: float) -> Calibration:
    """From the source model's answers on images that it was not trained on, or that look so."""
    confidence = logits.softmax(1).amax(1)
    edges = torch.quantile(confidence.double(), torch.linspace(0, 1, BINS + 1, dtype=torch.float64))[1:-1]
    if labels is None:
        bins = torch.full((BINS,), math.nan, dtype=torch.float64)
        return Calibration(math.nan, float(confidence.mean()), math.nan, edges, bins, 0, lines, aetta_error)
    right = (logits.argmax(1) == labels).double()
    place = torch.bucketize(confidence.double(), edges)
    counts = torch.bincount(place, minlength=BINS).double()
    bins = (torch.zeros(BINS, dtype=torch.float64).index_add_(0, place, right) + right.mean()) / (counts + 1.0)
    ordered = entropy(logits).sort().values
    threshold = float(ordered[max(0, min(len(ordered) - 1, round(float(right.sum())) - 1))])
    return Calibration(float(right.mean()), float(confidence.mean()), threshold, edges, bins, len(right), lines,
                       aetta_error)  # fmt: skip


def aetta(shares: Mapping[str, float], classes: int) -> float:
    """1 - disagreement / spread^3: where answers collapse onto few classes, their spread falls and the error rises."""
    error = shares["disagreement"] / max(1e-3, shares["spread"]) ** 3
    return 1.0 - min(max(error, 0.0), 1.0 - 1.0 / classes)


def inputs(estimator: Estimator, shares: Mapping[str, float]) -> list[float]:
    """The shares that the line of an estimator is a function of."""
    if estimator is Estimator.AGREEMENT:
        return [shares["agreement"]]
    return [shares["agreement"], shares["disagreement"], shares["spread"]]


def estimates(
    calibration: Calibration, shares: Mapping[str, float], classes: int, *, drifted: bool
) -> dict[Pair, Estimate]:
    """Every estimate of `PAIRS` that these shares allow."""
    found: dict[Pair, Estimate] = {}
    images = int(shares["images"])
    if images:
        doubt = UNLABELED if not calibration.images else OFF_SOURCE if drifted else FEW if images < FEWEST else ""
        importance = sum(shares[f"bin{i}"] * float(calibration.bins[i]) for i in range(BINS))
        doc = calibration.accuracy - calibration.confidence + shares["confidence"]
        for estimator, value in (
            (Estimator.ATC, shares["certain"]),
            (Estimator.DOC, doc),
            (Estimator.IMPORTANCE, importance),
        ):
            found[estimator, "source"] = _around(value, images, 0.0, calibration.images, doubt)
    adapted, heads = int(shares["adapted"]), int(shares["heads"])
    for estimator, model, count in (
        (Estimator.AGREEMENT, "source", adapted),
        (Estimator.AGREEMENT, "adapted", adapted),
        (Estimator.COMBINED, "adapted", heads),
    ):
        if count:
            found[estimator, model] = _read(
                calibration.lines.get(f"{estimator}/{model}"), inputs(estimator, shares), count
            )
    if heads:
        doubt = FEW if heads < FEWEST else ""
        found[Estimator.AETTA, "adapted"] = _around(aetta(shares, classes), heads, calibration.aetta_error, 0, doubt)
    return found


def _read(line: Line | None, shares: Sequence[float], images: int) -> Estimate:
    if line is None:
        return Estimate(math.nan, math.nan, math.nan, images, UNTAUGHT)
    value, inside = line.at(shares)
    return _around(value, images, line.error, 0, FEW if images < FEWEST else "" if inside else OUTSIDE)


def _around(value: float, images: int, error: float, source_images: int, doubt: str) -> Estimate:
    value = min(max(value, 0.0), 1.0)
    share = (value * images + 1.0) / (images + 2.0)  # Laplace: no share of finitely many images is certain
    variance = share * (1.0 - share) * (1.0 / images + (1.0 / source_images if source_images else 0.0)) + error**2
    reach = SURE * math.sqrt(variance)
    return Estimate(value, max(0.0, value - reach), min(1.0, value + reach), images, doubt)
