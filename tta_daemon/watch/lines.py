"""Lines that read an accuracy off shares that can be counted without labels, fitted where labels are known."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MARGIN = 0.7
"""How far outside what was seen when the prior was made, in log odds, a line may still be read."""


@dataclass(frozen=True, slots=True)
class Line:
    """Accuracy as a logistic function of the log odds of some shares.

    Attributes:
        weights: intercept first, 1 + F.
        low, high: the least and the greatest log odds it was fitted on, F.
        error: root mean square error of the accuracies it was fitted on, each left out in turn.
    """

    weights: Tensor
    low: Tensor
    high: Tensor
    error: float

    def at(self, shares: Sequence[float]) -> tuple[float, bool]:
        """The accuracy, and whether the shares are among those that the line was fitted on."""
        odds = log_odds(torch.tensor(shares, dtype=torch.float64))
        inside = bool(((odds > self.low - MARGIN) & (odds < self.high + MARGIN)).all())
        return float(torch.sigmoid(self.weights[0] + self.weights[1:] @ odds)), inside


def fit_line(shares: Tensor, accuracy: Tensor, ridge: float = 0.01) -> Line:
    """Logistic regression of accuracies, S, on log odds of shares, S x F, by iterated least squares.

    >>> shares = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)[:, None]
    >>> line = fit_line(shares, shares[:, 0])
    >>> round(line.at([0.35])[0], 2)
    0.35
    """
    odds = log_odds(shares.double())
    design = torch.cat((torch.ones(len(odds), 1, dtype=torch.float64), odds), 1)
    weights, leverage = _solve(design, accuracy.double(), ridge)
    fitted = torch.sigmoid(design @ weights)
    left_out = (fitted - accuracy) / (1.0 - leverage).clamp(min=0.2)
    return Line(weights, odds.amin(0), odds.amax(0), float(left_out.square().mean().sqrt()))


def _solve(design: Tensor, accuracy: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    weights = torch.zeros(design.size(1), dtype=torch.float64)
    damping = ridge * torch.eye(design.size(1), dtype=torch.float64)
    damping[0, 0] = 1e-9
    leverage = torch.zeros(len(design), dtype=torch.float64)
    for _ in range(30):
        p = torch.sigmoid(design @ weights)
        slope = p * (1.0 - p) + 1e-4
        inverse = torch.linalg.inv(design.T @ (slope[:, None] * design) + damping)
        weights = inverse @ design.T @ (slope * (design @ weights + (accuracy - p) / slope))
        leverage = ((design @ inverse) * design).sum(1) * slope
    return weights, leverage


def log_odds(shares: Tensor) -> Tensor:
    """Logit: ln p / (1 - p), p kept between 0.005 and 0.995."""
    return torch.logit(shares.clamp(0.005, 0.995))
