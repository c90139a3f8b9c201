"""The deployed model as it is. No adaptation: the reference that every method has to beat."""

from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.adapter import Adaptation, Adapter
from adapters.classifier import Classifier
from adapters.parts.answering import Answerer
from adapters.parts.network import Network
from adapters.parts.norms import from_source, normalizing
from adapters.parts.objectives import entropy


@dataclass(frozen=True, slots=True)
class SourceOnlyOptions:
    """Nothing to choose."""


class SourceOnly(Adapter):
    """Answers with the frozen source network and its own statistics."""

    def __init__(self, classifier: Classifier, options: SourceOnlyOptions, prior: None = None, seed: int = 0) -> None:
        super().__init__(classifier, options, prior, seed)
        self.network = Network(classifier)

    def adapt(self, images: Tensor) -> Adaptation:
        """Answer; learn nothing."""
        logits = self.predict(images)
        yield logits
        return {"entropy": entropy(logits).mean()}

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """The source's logits."""
        with normalizing(self.network, from_source):
            logits: Tensor = self.network(images)
        return logits

    def answerer(self) -> Answerer:
        """The source."""
        return Answerer(self.network, by_batch=False)
