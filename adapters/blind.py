"""What methods that look at nothing but answers have in common."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from adapters.adapter import Adapter, Memory
from adapters.classifier import Classifier
from adapters.parts.network import Network
from adapters.parts.norms import from_source, normalizing


class Blind(Adapter):
    """Asks the deployed network as it is; all that it learns is what to make of the answers.

    A method writes ``adapt`` and ``read``.
    """

    def __init__(self, classifier: Classifier, options: Any, prior: Any = None, seed: int = 0) -> None:  # noqa: ANN401 - each method narrows both
        super().__init__(classifier, options, prior, seed)
        self.network = Network(classifier)

    @abstractmethod
    def read(self, logits: Tensor, memory: Memory | None = None) -> Tensor:
        """What the network's logits, N x C, become by what was learned: here, or as ``memory`` has it."""

    @torch.no_grad()
    def ask(self, images: Tensor) -> Tensor:
        """The network's own logits, N x C."""
        with normalizing(self.network, from_source):
            return torch.cat([self.network(part) for part in self.network.classifier.portions(images)])

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Logits by what was learned so far."""
        return self.read(self.ask(images))
