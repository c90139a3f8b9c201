"""How sure answers should be: one temperature for all logits, found without labels on mixtures of images.

Hu et al., "Pseudo-Calibration: Improving Predictive Uncertainty Estimation in Unsupervised Domain Adaptation", ICML
2024: two images that are answered differently are mixed, and the answer to the one of which there is more counts as the
label of the mixture. Published code does so once, over all images; here older mixtures fade out.
"""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Interval
from torch import Tensor
from torch.nn import functional

from adapters.adapter import Adaptation, Memory
from adapters.blind import Blind
from adapters.classifier import Classifier
from adapters.options import Positive, knob
from adapters.parts.answering import HeadAnswerer
from adapters.parts.objectives import entropy

LEAST, MOST, STEPS = 1 / 8, 32.0, 33
"""Between which temperatures the best is sought, and in how many steps of equal ratio."""

WORST = 100.0
"""Nats that one mixture can cost at most: what is answered beyond all reason says nothing of any temperature."""


@dataclass(frozen=True, slots=True)
class TemperatureOptions:
    """The published mixture; the rest are our own numbers, for a stream."""

    mixed: Annotated[float, Interval(gt=0.5, lt=1.0)] = knob(0.65, "How much of the one image a mixture holds.")
    alike: bool = knob(False, "Mix images that are answered alike as well: as good as always right, so surer.")
    window: Positive = knob(1000.0, "Mixtures that the temperature is estimated from: older ones fade out.")
    unchanged: Positive = knob(16.0, "As how many mixtures the belief counts that logits are right as they are.")


class Temperature(Blind):
    """Divides logits by what would have been right for mixtures so far: no answer changes but in how sure it is."""

    judged: ClassVar[bool] = False
    options: TemperatureOptions
    grid: Tensor
    costs: Tensor

    def __init__(self, classifier: Classifier, options: TemperatureOptions, prior: None = None, seed: int = 0) -> None:
        super().__init__(classifier, options, prior, seed)
        grid = torch.linspace(math.log(LEAST), math.log(MOST), STEPS, dtype=torch.float64)
        self.register_buffer("grid", grid.to(classifier.mean.device), persistent=False)
        self.register_buffer("costs", torch.zeros_like(self.grid))

    def adapt(self, images: Tensor) -> Adaptation:
        """Answer by the temperature known so far, then see what would have been right for mixtures of this batch."""
        logits = self.ask(images)
        yield self.read(logits)
        other = torch.randperm(len(images), generator=self.dice.generator, device=images.device)
        said = logits.argmax(1)
        differ = (said != said[other]) | self.options.alike
        chosen = differ & torch.isfinite(logits + logits[other]).all(1)
        signals = {"entropy": entropy(logits).mean(), "selected_ratio": chosen.double().mean()}
        if bool(chosen.any()):
            mixed = self.ask(torch.lerp(images[other[chosen]], images[chosen], self.options.mixed))
            self.weigh(mixed, said[chosen])
        return {**signals, "temperature": self.found()}

    def read(self, logits: Tensor, memory: Memory | None = None) -> Tensor:
        """Logits by the temperature known so far."""
        return logits / self.found(None if memory is None else memory["costs"].to(self.costs))

    def answerer(self) -> HeadAnswerer | None:
        """The network, the temperature in its head."""
        return HeadAnswerer.of(self.network, scale=1 / self.found())

    def found(self, costs: Tensor | None = None) -> float:
        """The temperature of least cost, by the parabola through three steps; 1 before anything was mixed."""
        costs = (self.costs if costs is None else costs) + self.options.unchanged / 2 * self.grid.square()
        best = min(max(int(costs.argmin()), 1), STEPS - 2)
        left, middle, right = costs[best - 1 : best + 2].tolist()
        bend = left - 2 * middle + right
        aside = (left - right) / (2 * bend) if bend > 0 else 0.0
        return math.exp(float(self.grid[best]) + min(max(aside, -1.0), 1.0) * float(self.grid[1] - self.grid[0]))

    @torch.no_grad()
    def weigh(self, logits: Tensor, labels: Tensor) -> None:
        """Let older mixtures fade, and add what these cost at each temperature; logits N x C, labels N."""
        finite = torch.isfinite(logits).all(1)
        logits, labels = logits[finite].double(), labels[finite]
        if not len(logits):
            return
        each = [functional.cross_entropy(logits / t, labels, reduction="none") for t in self.grid.exp()]
        self.costs.mul_(math.exp(-len(logits) / self.options.window))
        self.costs.add_(torch.stack(each).clamp(max=WORST).sum(1))
