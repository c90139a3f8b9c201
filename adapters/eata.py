"""EATA, ETA and RDumb: learn from answers that are certain and uncommon, and stay near the source.

Niu et al., "Efficient Test-Time Model Adaptation without Forgetting", ICML 2022; ETA is its Fisher weight 0.
RDumb is ETA with ``reset_every`` 1000: Press et al., "RDumb: A simple approach that questions our progress in
continual test-time adaptation", NeurIPS 2023.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor
from torch.nn import functional

from adapters.adapter import Adaptation, Adapter
from adapters.classifier import Classifier
from adapters.options import Learning, NonNegative, Positive, Rate, knob
from adapters.parts.anchors import weighted_distance
from adapters.parts.answering import Answerer
from adapters.parts.descent import Descent
from adapters.parts.network import Network, norm_affine
from adapters.parts.objectives import entropy, generalized_cross_entropy, mean_of


@dataclass(frozen=True, slots=True)
class EataOptions(Learning):
    """The numbers for CIFAR-10. ImageNet: SGD, lr 2.5e-4, similarity margin 0.05, Fisher weight 2000."""

    entropy_margin: NonNegative = knob(0.4, "Images above this share of the largest entropy, ln C, teach nothing.")
    similarity_margin: Positive = knob(
        0.4, "Images whose answer is as close as this to the usual one, by cosine, teach nothing. 2 lets all pass."
    )
    usual_momentum: Rate = knob(0.9, "Share of the usual answer that stays at each step.")
    fisher_weight: NonNegative = knob(1.0, "Pull toward the source by importance, with a prior. 0 is ETA.")
    reset_every: Annotated[int, Ge(0)] = knob(0, "Return to the source after so many steps (RDumb: 1000). 0 is never.")


@dataclass(frozen=True, slots=True)
class EataPrior:
    """How much each learning element matters on the source.

    Attributes:
        fisher: one number an element, in the order of the network's norms, scale before shift.
    """

    fisher: Tensor


class Eata(Adapter):
    """Scale and shift of the norms descend the entropy of certain, uncommon answers."""

    options: EataOptions
    usual: Tensor

    def __init__(
        self, classifier: Classifier, options: EataOptions, prior: EataPrior | None = None, seed: int = 0
    ) -> None:
        super().__init__(classifier, options, prior, seed)
        self.network = Network(classifier, norm_affine)
        self.descend = Descent(self.network.learns, optimizer=options.optimizer, nesterov=options.nesterov)
        self.register_buffer("usual", classifier.mean.new_zeros(classifier.num_classes))
        learns = self.network.learns
        self.fisher = torch.zeros_like(learns.values) if prior is None else learns.laid(prior.fisher)

    def adapt(self, images: Tensor) -> Adaptation:
        """Answer, select (EATA, eq. 3 and 5), weigh (eq. 4), hold on to what matters (eq. 8)."""
        o = self.options
        logits = self.network(images)
        yield logits
        entropies, answers = entropy(logits), logits.detach().softmax(1)
        certain = entropies < self.margin
        uncommon = functional.cosine_similarity(answers, self.usual[None]).abs() < o.similarity_margin
        selected = certain & uncommon
        weights = torch.exp(self.margin - entropies.detach())
        anchor = o.fisher_weight * weighted_distance(self.network.learns, self.network.source.values, self.fisher)
        loss = mean_of(weights * entropies, selected) + anchor
        if self.descend(loss, o.lr, o.momentum):
            self.grow_used_to(answers[selected].mean(0))
        if over := o.reset_every > 0 and int(self.steps) % o.reset_every == 0:
            self.rewind()
        return {"loss": loss.detach(), "entropy": entropies.detach().mean(), "anchor_loss": anchor.detach(),
                "selected_ratio": selected.to(answers).mean(), "recovered": float(over)}  # fmt: skip

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
        """E0: the entropy from which on an answer is no longer certain."""
        return self.options.entropy_margin * math.log(self.usual.numel())

    def grow_used_to(self, answer: Tensor) -> None:
        """Let the usual answer, C, follow this one; the first is taken as it is."""
        stays = torch.where(self.usual.any(), self.options.usual_momentum, 0.0)
        self.usual.lerp_(answer, 1.0 - stays.to(answer))


@torch.enable_grad()
def estimate_fisher(classifier: Classifier, batches: Iterable[Tensor]) -> EataPrior:
    """Mean over batches of the squared gradient of the loss against the source's own hard labels (EATA, eq. 9).

    Args:
        classifier: the deployed model.
        batches: unlabelled images of the source domain, N x 3 x H x W in [0, 1]; 2000 in all will do.

    Raises:
        ValueError: there are no batches, or one of them gives no finite gradient.
    """
    network = Network(classifier, norm_affine)
    descend, squares = Descent(network.learns), []
    for images in batches:
        if not descend.backward(generalized_cross_entropy(network(images), 0.0).mean()):
            raise ValueError("a batch of source images gives no finite gradient, so it cannot say what matters")
        squares.append(network.learns.gradient.square())
    if not squares:
        raise ValueError("without source images nothing can be said of what matters")
    return EataPrior(network.learns.row_major(torch.stack(squares).mean(0)))
