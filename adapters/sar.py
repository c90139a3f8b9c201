"""SAR: sharpness-aware and reliable entropy minimization.

Niu et al., "Towards Stable Test-Time Adaptation in Dynamic Wild World", ICLR 2023. Unlike the published code, a
recovery also clears the momentum and the average that called for it, and a step that nothing was selected for is none.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from adapters.adapter import Adaptation, Adapter
from adapters.classifier import Classifier
from adapters.options import Learning, NonNegative, Optimizer, Rate, knob
from adapters.parts.answering import Answerer
from adapters.parts.descent import Descent
from adapters.parts.network import Network, norm_affine
from adapters.parts.objectives import entropy, mean_of
from adapters.parts.vector import Vector


@dataclass(frozen=True, slots=True)
class SarOptions(Learning):
    """The numbers for CIFAR and for ViT at batch 64; ResNet-50: lr 2.5e-4. Smaller batches want a smaller lr."""

    optimizer: Optimizer = knob("sgd", "Which optimizer descends: adam or sgd.", reach="rebuild")
    entropy_margin: NonNegative = knob(0.4, "Images above this share of the largest entropy, ln C, teach nothing.")
    radius: NonNegative = knob(0.05, "How far uphill to look for the sharpness of the loss. 0 looks nowhere.")
    recover_below: NonNegative = knob(0.2, "Return to the source when the average loss is below this. 0 is never.")
    average_momentum: Rate = knob(0.9, "Share of the average loss that stays at each step.")
    excluded: tuple[str, ...] = knob(
        ("*layer4.*", "*blocks.9.*", "*blocks.10.*", "*blocks.11.*", "norm"),
        "Names of norms that stay as they are, * for anything: the last ones, whose gradients are noisy.",
        reach="rebuild",
    )


class Sar(Adapter):
    """Scale and shift of the norms descend to where the entropy of reliable answers is low and flat."""

    options: SarOptions
    average: Tensor

    def __init__(self, classifier: Classifier, options: SarOptions, prior: None = None, seed: int = 0) -> None:
        super().__init__(classifier, options, prior, seed)
        self.network = Network(classifier, partial(norm_affine, excluded=options.excluded))
        self.descend = Descent(self.network.learns, optimizer=options.optimizer, nesterov=options.nesterov)
        self.num_classes = classifier.num_classes
        self.register_buffer("average", classifier.mean.new_empty(0))

    def adapt(self, images: Tensor) -> Adaptation:
        """Answer, select (SAR, eq. 2), look uphill (eq. 5), descend from there (eq. 6), recover (section 3.3)."""
        o = self.options
        logits = self.network(images)
        yield logits
        entropies = entropy(logits)
        reliable = entropies < self.margin
        loss = mean_of(entropies, reliable)
        if sound := self.descend.backward(loss):
            with uphill(self.network.learns, o.radius):
                there = entropy(self.network(images))
                reliable &= there < self.margin
                loss = mean_of(there, reliable)
                sound = self.descend.backward(loss)
        if sound:
            self.descend.step(o.lr, o.momentum)
            self.remember(loss.detach())
        if recovered := sound and bool(self.average < o.recover_below):
            self.rewind()
        return {"loss": loss.detach(), "entropy": entropies.detach().mean(),
                "selected_ratio": reliable.to(loss.dtype).mean(), "recovered": float(recovered)}  # fmt: skip

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Logits by batch statistics and what was learned so far."""
        logits: Tensor = self.network(images)
        return logits

    def answerer(self) -> Answerer:
        """The network, by the batch."""
        return Answerer(self.network)

    @property
    def margin(self) -> float:
        """E0: the entropy from which on an answer is not reliable."""
        return self.options.entropy_margin * math.log(self.num_classes)

    def remember(self, loss: Tensor) -> None:
        """Let the average, empty before the first loss, follow this one."""
        before = self.average if self.average.numel() else loss[None]
        self.average = torch.lerp(loss[None], before, self.options.average_momentum)


@contextmanager
def uphill(vector: Vector, radius: float) -> Iterator[None]:
    """Within, ``vector`` stands at distance ``radius`` up its gradient; after, exactly where it was (SAM, eq. 2)."""
    before, gradient = vector.values.clone(), vector.gradient
    vector.values.add_(gradient * (radius / (gradient.norm() + 1e-12)))
    try:
        yield
    finally:
        vector.values.copy_(before)
