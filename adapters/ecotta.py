"""EcoTTA: the source network stays frozen; small meta networks beside its parts learn, held near its features.

Song et al., "EcoTTA: Memory-Efficient Continual Test-Time Adaptation via Self-Distilled Regularization", CVPR 2023.
Its authors state that the method may be covered by a patent.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from adapters.adapter import Adaptation, Adapter
from adapters.classifier import Classifier
from adapters.options import Learning, NonNegative, Optimizer, knob
from adapters.parts.descent import Descent
from adapters.parts.grafts import Grafted
from adapters.parts.objectives import entropy, mean_of
from adapters.parts.surgery import parts_of


@dataclass(frozen=True, slots=True)
class EcottaOptions(Learning):
    """The numbers for CIFAR, one joint step as in the paper."""

    lr: NonNegative = knob(5e-3, "Step size. 0 learns nothing.")
    optimizer: Optimizer = knob("sgd", "Which optimizer descends: adam or sgd.", reach="rebuild")
    entropy_margin: NonNegative = knob(0.4, "Images above this share of the largest entropy, ln C, teach nothing.")
    anchor_weight: NonNegative = knob(0.5, "Pull of each part's output toward what the frozen part gives.")
    recompute: bool = knob(
        True, "Compute again while learning what was not kept: a third of the memory, for some time.", reach="rebuild"
    )
    blocks: tuple[str, ...] = knob((), "Names of the network's blocks, in order; found where absent.", reach="rebuild")
    partition: tuple[int, ...] = knob((), "How many blocks each part takes; at most four parts.", reach="rebuild")


@dataclass(frozen=True, slots=True)
class EcottaPrior:
    """Meta networks warmed up on the labelled source.

    Attributes:
        grafts: all their weights, end to end, row by row, in the order of the parts.
    """

    grafts: Tensor


class Ecotta(Adapter):
    """Only the meta networks learn. Without a prior they are born as identities: the answer is the source's.

    Raises:
        ValueError: the network's blocks are not found, or the prior is of other parts.
    """

    options: EcottaOptions

    def __init__(
        self, classifier: Classifier, options: EcottaOptions, prior: EcottaPrior | None = None, seed: int = 0
    ) -> None:
        super().__init__(classifier, options, prior, seed)
        parts = parts_of(classifier, options.blocks, options.partition)
        self.network = Grafted(classifier, parts, self.dice, recompute=options.recompute)
        if prior is not None:
            self.network.learns.values.copy_(self.network.learns.laid(prior.grafts))
            self.network.normalize()
        self.descend = Descent(self.network.learns, optimizer=options.optimizer, nesterov=options.nesterov)

    def adapt(self, images: Tensor) -> Adaptation:
        """Answer, then learn from certain answers and from what the frozen parts give (EcoTTA, eq. 2 to 4)."""
        o = self.options
        logits, trail = self.network(images)
        yield logits
        entropies = entropy(logits)
        certain = entropies < o.entropy_margin * math.log(logits.size(1))
        anchor = self.network.departure(trail)
        loss = mean_of(entropies, certain) + o.anchor_weight * anchor
        self.descend(loss, o.lr, o.momentum)
        return {"loss": loss.detach(), "entropy": entropies.detach().mean(), "anchor_loss": anchor.detach(),
                "selected_ratio": certain.to(logits).mean()}  # fmt: skip

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Logits of the frozen network with its meta networks as they are."""
        logits: Tensor = self.network(images)[0]
        return logits


def warm_up(
    classifier: Classifier,
    epochs: Sequence[Iterable[tuple[Tensor, Tensor]]],
    options: EcottaOptions | None = None,
    lr: float = 0.05,
    seed: int = 0,
) -> EcottaPrior:
    """Train the meta networks on the labelled source, from identities on, by SGD with a falling step size.

    Args:
        classifier: the deployed model.
        epochs: each an iterable of batches: images, N x 3 x H x W in [0, 1], and labels, N. Published: ten epochs,
            batches of 64, color jitter, blur and grayscale.
        options: as the adapter will have them; they say where the parts are.
        lr: the step size after the first hundred steps; a fifth of it after 3, 6 and 8 tenths of the epochs each.
        seed: of the meta networks' first weights.

    Raises:
        ValueError: training diverges, or there are no source images.
    """
    born = Ecotta(classifier, options or EcottaOptions(), None, seed)
    network, descend = born.network, Descent(born.network.learns, optimizer="sgd")
    steps = 0
    for epoch, batches in enumerate(epochs):
        rate = lr * 0.2 ** sum(epoch >= share * len(epochs) for share in (0.3, 0.6, 0.8))
        for images, labels in batches:
            if steps == 0:
                network.settle(images)
            steps += 1
            loss = functional.cross_entropy(network(images)[0], labels)
            if not descend(loss, rate * min(1.0, steps / 100)):
                raise ValueError("warming up on the source diverged; lower the step size")
    if steps == 0:
        raise ValueError("without source images nothing can be warmed up")
    return EcottaPrior(network.learns.row_major(network.learns.values).clone())
