"""A teacher that follows its student slowly."""

import torch
from torch import Tensor, nn

from adapters.classifier import Classifier
from adapters.parts.network import Choice, Network


class Teacher(nn.Module):
    """An exponential moving average of a student, over the tensors that the student learns. Has no gradient."""

    def __init__(self, classifier: Classifier, choose: Choice, *, statistics_move: bool = False) -> None:
        super().__init__()
        self.network = Network(classifier, choose, statistics_move=statistics_move)
        self.network.requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Logits, N x C."""
        logits: Tensor = self.network(images)
        return logits

    @torch.no_grad()
    def follow(self, student: Network, momentum: float) -> None:
        """Set teacher <- momentum * teacher + (1 - momentum) * student. 1 stands still."""
        self.network.learns.values.lerp_(student.learns.values, 1.0 - momentum)
