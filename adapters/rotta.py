"""RoTTA: robust normalization, a category-balanced memory, and a teacher that weighs what it learned by its age.

Yuan et al., "Robust Test-Time Adaptation in Dynamic Scenarios", CVPR 2023.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.adapter import Adaptation, Adapter
from adapters.classifier import Classifier
from adapters.options import Count, Learning, NonNegative, Rate, knob
from adapters.parts.answering import Answerer
from adapters.parts.descent import Descent
from adapters.parts.memory_bank import Keeping, MemoryBank
from adapters.parts.network import Network, norm_affine
from adapters.parts.norms import from_running, keep, normalizing, proposals, robust
from adapters.parts.objectives import cross_entropy, entropy
from adapters.parts.teacher import Teacher
from adapters.parts.views import ViewKind, view


@dataclass(frozen=True, slots=True)
class RottaOptions(Learning):
    """The published numbers: a memory of 64, a step for every 64 images."""

    capacity: Count = knob(64, "Images in the memory.")
    update_every: Count = knob(64, "Images between two steps, however they are batched.")
    statistics_share: Rate = knob(0.05, "Share of each step's images in the running statistics of the norms.")
    age_weight: NonNegative = knob(1.0, "How soon an image must leave the memory for being old.")
    entropy_weight: NonNegative = knob(1.0, "How soon an image must leave the memory for being uncertain.")
    teacher_momentum: Rate = knob(0.999, "Share of the teacher that stays at each step. 1 freezes it.")
    view_kind: ViewKind = knob(
        "random", "What the student sees: a random view of the image, its mirror image or itself."
    )
    view_strength: NonNegative = knob(1.0, "How far a random view differs from the image. 0 is the image itself.")


class Rotta(Adapter):
    """The teacher answers by running statistics; the student, of the norms' scale and shift, learns from a memory."""

    options: RottaOptions

    def __init__(self, classifier: Classifier, options: RottaOptions, prior: None = None, seed: int = 0) -> None:
        super().__init__(classifier, options, prior, seed)
        self.student = Network(classifier, norm_affine, statistics_move=True)
        self.teacher = Teacher(classifier, norm_affine, statistics_move=True)
        self.descend = Descent(self.student.learns, optimizer=options.optimizer, nesterov=options.nesterov)
        self.bank = MemoryBank(classifier.num_classes, like=classifier.mean)

    def adapt(self, images: Tensor) -> Adaptation:
        """Answer, remember, and learn whenever enough images came by (RoTTA, algorithm 1)."""
        o = self.options
        logits = self.predict(images)
        yield logits
        signals = {"entropy": entropy(logits).mean()}
        for held in self.bank.admit(images, logits, o.update_every, self.keeping):
            with normalizing(self, robust(o.statistics_share)):
                target = self.teacher(held)
                answer = self.student(view(held, self.dice, o.view_strength, kind=o.view_kind))
            loss = (self.timeliness * cross_entropy(answer, target)).mean()
            if self.descend(loss, o.lr, o.momentum):
                keep(proposals(self))
                self.teacher.follow(self.student, o.teacher_momentum)
            signals["loss"] = loss.detach()
        return {**signals, "memory_used": len(self.bank.images)}

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """The teacher's logits by its running statistics."""
        with normalizing(self.teacher, from_running):
            return torch.cat([self.teacher(part) for part in self.teacher.network.classifier.portions(images)])

    def answerer(self) -> Answerer:
        """The teacher, by its running statistics."""
        return Answerer(self.teacher.network, by_batch=False)

    @property
    def keeping(self) -> Keeping:
        """Who stays in memory."""
        return Keeping(self.options.capacity, self.options.age_weight, self.options.entropy_weight)

    @property
    def timeliness(self) -> Tensor:
        """The weight of each image in memory, the less the older (RoTTA, eq. 8)."""
        return torch.sigmoid(-self.bank.ages.to(self.bank.images) / self.options.capacity)
