"""ViDA: low-rank grafts for what the domains share, high-rank ones for what each has alone, balanced by doubt.

Liu et al., "ViDA: Homeostatic Visual Domain Adapter for Continual Test Time Adaptation", ICLR 2024. The published code
never changes the scale of the high rank; here both scales change, as the paper has it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor
from torch.nn import functional

from adapters.adapter import Adaptation, Adapter
from adapters.classifier import Classifier
from adapters.options import Count, Learning, NonNegative, Rate, knob
from adapters.parts.descent import Descent
from adapters.parts.dice import Dice
from adapters.parts.dual_rank import balanced, grow
from adapters.parts.network import Network, everything
from adapters.parts.objectives import cross_entropy, symmetric_cross_entropy
from adapters.parts.source import restore_at_random
from adapters.parts.teacher import Teacher
from adapters.parts.views import ViewKind, answers, views


@dataclass(frozen=True, slots=True)
class VidaOptions(Learning):
    """The numbers for CIFAR-10. ImageNet: SGD, lr 5e-7 and 2e-7, graft momentum 0.8, doubtful from 0.2, symmetric."""

    lr: NonNegative = knob(1e-4, "Step size of the network. 0 leaves it as it is.")
    graft_lr: NonNegative = knob(1e-5, "Step size of the grafts.")
    teacher_momentum: Rate = knob(0.999, "Share of the teacher's network that stays at each step. 1 freezes it.")
    graft_momentum: Rate = knob(0.999, "Share of the teacher's grafts that stays at each step.")
    restore_rate: Rate = knob(0.1, "Chance of each element of the network to return to its source value.")
    doubtful_from: NonNegative = knob(0.05, "From this uncertainty on the high rank gains weight, below it the low.")
    views: Annotated[int, Ge(2)] = knob(10, "Over how many views uncertainty is measured, each a forward pass.")
    view_kind: ViewKind = knob("random", "random, or for comparisons flip (every second view mirrored), identity.")
    view_strength: Rate = knob(1.0, "How far views differ from the image: 1 hard, 0.5 soft, 0 not at all.")
    images_at_once: Count = knob(64, "Views of small batches share a pass up to so many images; raise it on a GPU.")
    loss: Literal["cross", "symmetric"] = knob("cross", "Cross-entropy to the teacher, or its symmetric form.")
    rank_low: Count = knob(1, "Rank of what the domains share.", reach="rebuild")
    rank_high: Count = knob(128, "Rank of what each domain has alone.", reach="rebuild")


@dataclass(frozen=True, slots=True)
class VidaPrior:
    """Grafts warmed up on the labelled source.

    Attributes:
        grafts: all their weights, end to end, row by row, in the order of the network.
    """

    grafts: Tensor


class Vida(Adapter):
    """Network and grafts descend toward a teacher; how much each rank counts is set anew by each batch.

    Without a prior the grafts are born adding nothing.
    """

    options: VidaOptions
    doubt: Tensor

    def __init__(
        self, classifier: Classifier, options: VidaOptions, prior: VidaPrior | None = None, seed: int = 0
    ) -> None:
        super().__init__(classifier, options, prior, seed)
        self.student = Network(classifier, everything)
        self.teacher = Teacher(classifier, everything)
        self.grafts = grow(self.student, options.rank_low, options.rank_high, self.dice)
        self.followers = grow(self.teacher.requires_grad_(False), options.rank_low, options.rank_high, self.dice)
        if prior is not None:
            self.grafts.values.copy_(self.grafts.laid(prior.grafts))
        self.followers.values.copy_(self.grafts.values)
        self.register_buffer("doubt", classifier.mean.new_zeros(()))
        self.descend = Descent(self.student.learns, self.grafts, optimizer=options.optimizer, nesterov=options.nesterov)

    def adapt(self, images: Tensor) -> Adaptation:
        """Measure doubt, balance the ranks by it, answer with the teacher and learn from it (ViDA, section 3.3)."""
        o = self.options
        doubt = self.measure_doubt(images)
        with balanced(self, *self.allot(doubt)):
            target = self.teacher(images)
        yield target
        with balanced(self, *self.allot(doubt)):
            loss = self.distance(self.student(images), target)
        restored = 0.0
        if self.descend(loss, (o.lr, o.graft_lr), o.momentum):
            self.teacher.follow(self.student, o.teacher_momentum)
            self.followers.values.lerp_(self.grafts.values, 1.0 - o.graft_momentum)
            restored = restore_at_random(self.student, o.restore_rate, self.dice)
            self.doubt.copy_(doubt)
        return {"loss": loss.detach(), "uncertainty": doubt, "restored_ratio": restored}

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """The teacher's logits, the ranks balanced as the last batch left them."""
        with balanced(self, *self.allot(self.doubt)):
            logits: Tensor = self.teacher(images)
        return logits

    def measure_doubt(self, images: Tensor) -> Tensor:
        """A tenth of the variance of the teacher's logits over views, the mean of images and classes."""
        o = self.options
        seen = views(images, o.views, self.dice, o.view_strength, o.view_kind)
        with balanced(self, *self.allot(self.doubt)):
            return 0.1 * answers(self.teacher, seen, o.images_at_once).var(0).mean()

    def allot(self, doubt: Tensor) -> tuple[Tensor, Tensor]:
        """Scales of the low and the high rank: doubt takes from one and gives to the other (ViDA, eq. 5)."""
        toward_high = torch.where(doubt >= self.options.doubtful_from, doubt, -doubt)
        return 1.0 - toward_high, 1.0 + toward_high

    def distance(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean over the batch of what parts the student from its teacher."""
        distance = cross_entropy if self.options.loss == "cross" else symmetric_cross_entropy
        return distance(logits, target).mean()


def warm_up(
    classifier: Classifier,
    epochs: Iterable[Iterable[tuple[Tensor, Tensor]]],
    options: VidaOptions | None = None,
    lr: float = 1e-3,
    seed: int = 0,
) -> VidaPrior:
    """Train the grafts alone on the labelled source, by Adam.

    Args:
        classifier: the deployed model.
        epochs: each an iterable of batches: images, N x 3 x H x W in [0, 1], and labels, N. Two will do.
        options: as the adapter will have them; they say of which rank the grafts are.
        lr: Adam's step size.
        seed: of the grafts' first weights.

    Raises:
        ValueError: training diverges.
    """
    o = options or VidaOptions()
    network = Network(classifier)
    grafts = grow(network, o.rank_low, o.rank_high, Dice(seed, classifier.mean.device))
    descend = Descent(grafts)
    for images, labels in chain.from_iterable(epochs):
        if not descend(functional.cross_entropy(network(images), labels), lr):
            raise ValueError("warming up on the source diverged; lower the step size")
    return VidaPrior(grafts.row_major(grafts.values).clone())
