"""PETAL: CoTTA with a Gaussian belief about the source weights, and restoration of what matters least.

Brahma and Rai, "A Probabilistic Framework for Lifelong Test-Time Adaptation", CVPR 2023. The source belief is
SWAG-diagonal: Maddox et al., "A Simple Baseline for Bayesian Uncertainty in Deep Learning", NeurIPS 2019.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from adapters.adapter import Adaptation
from adapters.classifier import Classifier
from adapters.cotta import Cotta, CottaOptions
from adapters.options import NonNegative, Rate, knob
from adapters.parts.anchors import weighted_distance
from adapters.parts.descent import Descent
from adapters.parts.network import Network, everything
from adapters.parts.source import restore_at_random, restore_where


@dataclass(frozen=True, slots=True)
class PetalOptions(CottaOptions):
    """The numbers for CIFAR-10. ImageNet as CoTTA, restored share 0.003, prior weight 1e-11."""

    restore_rate: Rate = knob(0.0, "Chance of each learning element to return to its source value, beside the share.")
    restored_share: Rate = knob(
        0.03, "The share of elements with the least squared gradient returns to source. 0 is none, 1 all but the most."
    )
    prior_weight: NonNegative = knob(1e-9, "Pull toward the source belief, with a prior. 0 pulls nothing.")


@dataclass(frozen=True, slots=True)
class PetalPrior:
    """A Gaussian over the weights of networks that fit the source.

    Attributes:
        mean: of every parameter, row by row, in the order of the network.
        variance: likewise.
    """

    mean: Tensor
    variance: Tensor


class Petal(Cotta):
    """CoTTA whose restoration is driven by Fisher information. Restores to the deployed weights."""

    options: PetalOptions

    def __init__(
        self, classifier: Classifier, options: PetalOptions, prior: PetalPrior | None = None, seed: int = 0
    ) -> None:
        super().__init__(classifier, options, None, seed)
        self.prior = prior
        if prior is not None:
            self.mean = self.student.learns.laid(prior.mean)
            self.variance = self.student.learns.laid(prior.variance)

    def adapt(self, images: Tensor) -> Adaptation:
        """Answer with the teacher, learn from it and from the source, restore what matters least (PETAL, section 3)."""
        o = self.options
        target, seen = self.ask_teacher(images)
        yield target
        anchor = o.prior_weight * self.surprise()
        loss = self.distance(self.student(images), target) + anchor
        restored = 0.0
        if self.descend.backward(loss):
            fisher = self.student.learns.gradient.square()
            least = fisher < quantile(fisher, o.restored_share)
            self.descend.step(o.lr, o.momentum)
            self.teacher.follow(self.student, o.teacher_momentum)
            restored = restore_where(self.student, least)
            restored += restore_at_random(self.student, o.restore_rate, self.dice)
        return {"loss": loss.detach(), "anchor_loss": anchor.detach(), "restored_ratio": restored, **seen}

    def surprise(self) -> Tensor:
        """Minus the log density of the student's weights under the source belief, but for a constant."""
        if self.prior is None:
            return self.student.learns.values.new_zeros(())
        precision = self.variance.clamp(min=0.0).add_(1e-6).reciprocal_()
        return 0.5 * weighted_distance(self.student.learns, self.mean, precision)


def quantile(values: Tensor, share: float) -> Tensor:
    """The linearly interpolated quantile of a vector of any length, without sorting it.

    >>> quantile(torch.tensor([4.0, 1.0, 3.0, 2.0]), 0.5)
    tensor(2.5000)
    """
    rank = share * (values.numel() - 1)
    low = int(rank)
    below = values.kthvalue(low + 1).values
    if rank == low:
        return below
    above = torch.where(values > below, values, torch.inf).amin()
    above = torch.where((values <= below).sum() > low + 1, below, above)
    return torch.lerp(below, above, rank - low)


def swag(
    classifier: Classifier, epochs: Iterable[Iterable[tuple[Tensor, Tensor]]], lr: float = 0.01, momentum: float = 0.9
) -> PetalPrior:
    """Mean and variance of the weights over further training on the source, one snapshot after each epoch.

    Args:
        classifier: the deployed model.
        epochs: each an iterable of batches: images, N x 3 x H x W in [0, 1], and labels, N. Five will do.
        lr: SGD's step size.
        momentum: SGD's momentum.

    Raises:
        ValueError: there are fewer than two epochs, or training diverges.
    """
    network = Network(classifier, everything)
    descend = Descent(network.learns, optimizer="sgd")
    values = network.learns.values
    mean, spread, snapshots = torch.zeros_like(values), torch.zeros_like(values), 0
    for epoch in epochs:
        for images, labels in epoch:
            if not descend(functional.cross_entropy(network(images), labels), lr, momentum):
                raise ValueError("training on the source diverged; lower the step size")
        snapshots += 1
        away = values - mean
        mean += away / snapshots
        spread += away * (values - mean)
    if snapshots <= 1:
        raise ValueError("one snapshot has no variance; train for at least two epochs")
    return PetalPrior(network.learns.row_major(mean), network.learns.row_major(spread / snapshots))
