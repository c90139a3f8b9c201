"""RPL and ENT: self-learning with robust pseudo-labels, or by entropy.

Rusak et al., "If your data distribution shifts, use self-learning", TMLR 2022.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from adapters.adapter import Adaptation, Adapter
from adapters.classifier import Classifier
from adapters.options import Learning, Rate, knob
from adapters.parts.answering import Answerer
from adapters.parts.descent import Descent
from adapters.parts.network import Network, norm_affine
from adapters.parts.objectives import entropy, generalized_cross_entropy


@dataclass(frozen=True, slots=True)
class RplOptions(Learning):
    """The published q; step sizes as for CIFAR. ImageNet: SGD, 5e-4 to 7.5e-4."""

    objective: Literal["gce", "entropy"] = knob("gce", "gce learns from its own hard labels (RPL), entropy is ENT.")
    q: Rate = knob(0.8, "Objective gce: 0 is cross-entropy, 1 is mean absolute error, which heeds outliers least.")


class Rpl(Adapter):
    """Scale and shift of the norms learn from the labels that the network itself just gave."""

    options: RplOptions

    def __init__(self, classifier: Classifier, options: RplOptions, prior: None = None, seed: int = 0) -> None:
        super().__init__(classifier, options, prior, seed)
        self.network = Network(classifier, norm_affine)
        self.descend = Descent(self.network.learns, optimizer=options.optimizer, nesterov=options.nesterov)

    def adapt(self, images: Tensor) -> Adaptation:
        """Answer, then take the answer for the truth, the less so the less likely it was (RPL, eq. 1)."""
        o = self.options
        logits = self.network(images)
        yield logits
        entropies = entropy(logits)
        losses = generalized_cross_entropy(logits, o.q) if o.objective == "gce" else entropies
        loss = losses.mean()
        self.descend(loss, o.lr, o.momentum)
        return {"loss": loss.detach(), "entropy": entropies.detach().mean()}

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Logits by batch statistics and what was learned so far."""
        logits: Tensor = self.network(images)
        return logits

    def answerer(self) -> Answerer:
        """The network, by the batch."""
        return Answerer(self.network)
