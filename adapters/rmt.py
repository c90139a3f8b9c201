"""RMT: a robust mean teacher, symmetric cross-entropy and contrast with source prototypes.

Doebler, Marsden and Yang, "Robust Mean Teacher for Continual and Gradual Test-Time Adaptation", CVPR 2023.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from adapters.adapter import Adaptation, Adapter
from adapters.classifier import Classifier
from adapters.options import Count, Learning, NonNegative, Positive, Rate, knob
from adapters.parts.descent import Descent
from adapters.parts.dice import Dice
from adapters.parts.network import Network, everything
from adapters.parts.objectives import symmetric_cross_entropy
from adapters.parts.source import Source
from adapters.parts.teacher import Teacher
from adapters.parts.vector import Vector
from adapters.parts.views import ViewKind, view


@dataclass(frozen=True, slots=True)
class RmtOptions(Learning):
    """The numbers for CIFAR. ImageNet: SGD with Nesterov, lr 0.01."""

    teacher_momentum: Rate = knob(0.999, "Share of the teacher that stays at each step. 1 freezes it.")
    target_weight: NonNegative = knob(1.0, "Weight of the agreement with the teacher.")
    contrastive_weight: NonNegative = knob(
        1.0, "Weight of the contrast with prototypes; without a prior there is none."
    )
    source_weight: NonNegative = knob(
        1.0, "Weight of replayed source images; without such in the prior there are none."
    )
    temperature: Positive = knob(0.1, "Divides similarities in the contrast. Small numbers heed the nearest only.")
    projection: Count = knob(128, "Width of the projector before the contrast.", reach="rebuild")
    view_kind: ViewKind = knob("random", "random, or for comparisons flip, identity.")
    view_strength: Rate = knob(1.0, "How far the second view differs from the image: 1 hard, 0.5 soft, 0 not at all.")


@dataclass(frozen=True, slots=True)
class RmtPrior:
    """What is kept of the source.

    Attributes:
        prototypes: mean feature of each class, C x D.
        images: labelled source images to replay, M x 3 x H x W, uint8 or in [0, 1]; none where absent.
        labels: their classes, M.
    """

    prototypes: Tensor
    images: Tensor | None = None
    labels: Tensor | None = None


class Rmt(Adapter):
    """The whole student agrees with its teacher on two views, and gathers both at the nearest source prototype."""

    temperature = 2.0  # the answer is the sum of two networks' logits

    options: RmtOptions
    prior: RmtPrior | None

    def __init__(
        self, classifier: Classifier, options: RmtOptions, prior: RmtPrior | None = None, seed: int = 0
    ) -> None:
        super().__init__(classifier, options, prior, seed)
        self.student = Network(classifier, everything)
        self.teacher = Teacher(classifier, everything)
        head = cast("nn.Linear", classifier.network.get_submodule(classifier.head or ""))
        self.projector = projector(head.in_features, options.projection, like=classifier.mean, dice=self.dice)
        moves = Vector(list(self.projector.parameters()))
        self.descend = Descent(self.student.learns, moves, optimizer=options.optimizer, nesterov=options.nesterov)

    def adapt(self, images: Tensor) -> Adaptation:
        """Answer with student and teacher, then agree, contrast and replay (RMT, eq. 3 to 7)."""
        o = self.options
        logits, features = self.student.with_features(images)
        target = self.teacher(images)
        yield logits + target
        seen_logits, seen_features = self.student.with_features(
            view(images, self.dice, o.view_strength, kind=o.view_kind)
        )
        two_views = symmetric_cross_entropy(logits, target) + symmetric_cross_entropy(seen_logits, target)
        consistency = 0.5 * two_views.mean()
        contrast = self.contrast(features, seen_features)
        replayed = self.replay(len(images))
        loss = o.target_weight * consistency + o.contrastive_weight * contrast + o.source_weight * replayed
        if self.descend(loss, o.lr, o.momentum):
            self.teacher.follow(self.student, o.teacher_momentum)
        return {"loss": loss.detach(), "consistency_loss": consistency.detach(),
                "contrastive_loss": contrast.detach(), "source_loss": replayed.detach()}  # fmt: skip

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Sum of the student's and the teacher's logits."""
        logits: Tensor = self.student(images) + self.teacher(images)
        return logits

    def contrast(self, features: Tensor, seen: Tensor) -> Tensor:
        """Draw the two views of each image and the prototype nearest to the first together (RMT, eq. 5)."""
        if self.prior is None or self.options.contrastive_weight == 0.0:
            return features.new_zeros(())
        prototypes = self.prior.prototypes.to(features)
        nearest = (functional.normalize(features.detach()) @ functional.normalize(prototypes).T).argmax(1)
        triples = torch.stack((prototypes[nearest], features, seen), 1)
        return contrastive_loss(self.projector(triples), self.options.temperature)

    def replay(self, count: int) -> Tensor:
        """Cross-entropy on as many labelled source images as the batch has."""
        prior = self.prior
        if prior is None or prior.images is None or prior.labels is None or self.options.source_weight == 0.0:
            return torch.zeros((), device=self.dice.generator.device)
        picked = torch.randint(
            len(prior.labels), (count,), generator=self.dice.generator, device=self.dice.generator.device
        )
        images = prior.images[picked.to(prior.images.device)].to(picked.device)
        labels = prior.labels[picked.to(prior.labels.device)].to(picked)
        return functional.cross_entropy(self.student(images if images.is_floating_point() else images / 255), labels)


def contrastive_loss(views: Tensor, temperature: float) -> Tensor:
    """Mean over all vectors of ln of the sum over others minus the mean similarity to its own kin (RMT, eq. 5).

    Args:
        views: N x V x D, the V views of each image being kin.
        temperature: divides the cosine similarities.
    """
    kin = functional.normalize(views, dim=2)
    every = kin.flatten(0, 1)
    scores = every @ every.T / temperature
    scores = scores.masked_fill(torch.eye(len(every), dtype=torch.bool, device=every.device), -torch.inf)
    sums = kin.sum(1, keepdim=True)
    own = ((kin * (sums - kin)).sum(2) / temperature).flatten() / (views.size(1) - 1)
    return (scores.logsumexp(1) - own).mean()


def projector(width: int, to: int, *, like: Tensor, dice: Dice) -> nn.Sequential:
    """Two linear layers, initialized as torch does, but by ``dice``; of the dtype and on the device of ``like``."""
    layers = [nn.Linear(width, to), nn.Linear(to, to)]
    for layer in layers:
        layer.to(like)
        bound = layer.in_features**-0.5
        for parameter in layer.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=dice.generator)
    return nn.Sequential(layers[0], nn.ReLU(), layers[1])


def estimate_prototypes(classifier: Classifier, batches: Iterable[tuple[Tensor, Tensor]]) -> RmtPrior:
    """Mean feature of each class, by batch statistics as at test time, so batches should be as large as there.

    Args:
        classifier: the deployed model.
        batches: images of the source domain, N x 3 x H x W in [0, 1], and their labels, N.

    Raises:
        ValueError: a class has no image.
    """
    source = Source(classifier)
    totals: Tensor | None = None
    counts = torch.zeros(classifier.num_classes, dtype=torch.int64, device=classifier.mean.device)
    for images, labels in batches:
        with torch.no_grad():
            features = source.network.with_features(images)[1]
        totals = features.new_zeros(len(counts), features.size(1)) if totals is None else totals
        classes = labels.to(counts)
        totals.index_add_(0, classes, features)
        counts += torch.bincount(classes, minlength=len(counts))
    if totals is None or not bool(counts.all()):
        raise ValueError(f"no source image of class {counts.eq(0).nonzero().flatten().tolist()}: no prototype of it")
    return RmtPrior(totals / counts[:, None].to(totals))
