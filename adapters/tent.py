"""Tent: test entropy minimization.

Wang et al., "Tent: Fully Test-Time Adaptation by Entropy Minimization", ICLR 2021.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.adapter import Adaptation, Adapter
from adapters.classifier import Classifier
from adapters.options import Learning
from adapters.parts.answering import Answerer
from adapters.parts.descent import Descent
from adapters.parts.network import Network, norm_affine
from adapters.parts.objectives import entropy


@dataclass(frozen=True, slots=True)
class TentOptions(Learning):
    """The published numbers for CIFAR: Adam, 1e-3."""


class Tent(Adapter):
    """Scale and shift of the norms descend the entropy of the answers."""

    options: TentOptions

    def __init__(self, classifier: Classifier, options: TentOptions, prior: None = None, seed: int = 0) -> None:
        super().__init__(classifier, options, prior, seed)
        self.network = Network(classifier, norm_affine)
        self.descend = Descent(self.network.learns, optimizer=options.optimizer, nesterov=options.nesterov)

    def adapt(self, images: Tensor) -> Adaptation:
        """Answer, then make such answers more certain (Tent, section 3)."""
        logits = self.network(images)
        yield logits
        loss = entropy(logits).mean()
        self.descend(loss, self.options.lr, self.options.momentum)
        return {"loss": loss.detach(), "entropy": loss.detach()}

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Logits by batch statistics and what was learned so far."""
        logits: Tensor = self.network(images)
        return logits

    def answerer(self) -> Answerer:
        """The network, by the batch."""
        return Answerer(self.network)
