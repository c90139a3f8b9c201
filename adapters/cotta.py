"""CoTTA: continual adaptation to a teacher averaged over weights and views, restored to the source at random.

Wang et al., "Continual Test-Time Domain Adaptation", CVPR 2022.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from adapters.adapter import Adaptation, Adapter, Signals
from adapters.classifier import Classifier
from adapters.options import Count, Learning, NonNegative, Rate, knob
from adapters.parts.answering import Answerer
from adapters.parts.descent import Descent
from adapters.parts.network import Network, everything
from adapters.parts.objectives import cross_entropy, symmetric_cross_entropy
from adapters.parts.source import Source, restore_at_random
from adapters.parts.teacher import Teacher
from adapters.parts.views import ViewKind, answers, views


@dataclass(frozen=True, slots=True)
class CottaOptions(Learning):
    """The numbers for CIFAR-10. ImageNet: SGD with Nesterov, lr 0.01, augment_below 0.1, restore 1e-3, symmetric."""

    teacher_momentum: Rate = knob(0.999, "Share of the teacher that stays at each step. 1 freezes it.")
    restore_rate: Rate = knob(0.01, "Chance of each learning element to return to its source value. 0 restores none.")
    augment_below: NonNegative = knob(
        0.92, "Average the teacher over views where the source's mean confidence is below this. 0 never, 2 always."
    )
    views: Count = knob(32, "How many views are averaged. Each costs a forward pass before the answer.")
    view_kind: ViewKind = knob("random", "random, or for comparisons flip (every second view mirrored), identity.")
    view_strength: Rate = knob(1.0, "How far views differ from the image: 1 hard, 0.5 soft, 0 not at all.")
    images_at_once: Count = knob(64, "Views of small batches share a pass up to so many images; raise it on a GPU.")
    loss: Literal["cross", "symmetric"] = knob("cross", "Cross-entropy to the teacher, or its symmetric form.")


class Cotta(Adapter):
    """The whole student descends toward its teacher. Both start as copies of the source, which itself never moves."""

    options: CottaOptions
    averages_views = True

    def __init__(self, classifier: Classifier, options: CottaOptions, prior: None = None, seed: int = 0) -> None:
        super().__init__(classifier, options, prior, seed)
        self.student = Network(classifier, everything)
        self.teacher = Teacher(classifier, everything)
        self.source = Source(classifier)
        self.descend = Descent(self.student.learns, optimizer=options.optimizer, nesterov=options.nesterov)

    def adapt(self, images: Tensor) -> Adaptation:
        """Answer with the teacher, learn from it, let it follow, restore (CoTTA, algorithm 1)."""
        o = self.options
        target, seen = self.ask_teacher(images)
        yield target
        loss = self.distance(self.student(images), target)
        restored = 0.0
        if self.descend(loss, o.lr, o.momentum):  # refused where not finite: then nothing moves
            self.teacher.follow(self.student, o.teacher_momentum)
            restored = restore_at_random(self.student, o.restore_rate, self.dice)
        return {"loss": loss.detach(), "restored_ratio": restored, **seen}

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """The teacher's logits on the images themselves, whatever the source's confidence."""
        logits: Tensor = self.teacher(images)
        return logits

    def answerer(self) -> Answerer:
        """The teacher, by the batch; without views."""
        return Answerer(self.teacher.network)

    def ask_teacher(self, images: Tensor) -> tuple[Tensor, Signals]:
        """The teacher's logits, averaged over views where the source is unsure (CoTTA, eq. 3-4). No gradient."""
        o = self.options
        confidence = self.source(images).softmax(1).amax(1).mean()
        augmented = bool(confidence < o.augment_below)
        if augmented:
            seen = views(images, o.views, self.dice, o.view_strength, o.view_kind)
            target = answers(self.teacher, seen, o.images_at_once).mean(0)
        else:
            target = self.teacher(images)
        return target, {"anchor_confidence": confidence, "augmented": float(augmented)}

    def distance(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean over the batch of what parts the student from its teacher (CoTTA, eq. 5)."""
        distance = cross_entropy if self.options.loss == "cross" else symmetric_cross_entropy
        return distance(logits, target).mean()
