"""The deployed model as it is. No adaptation: the reference that every method has to beat."""

from dataclasses import dataclass

from torch import Tensor

from adapters.adapter import Adaptation, Memory
from adapters.blind import Blind
from adapters.parts.answering import Answerer
from adapters.parts.objectives import entropy


@dataclass(frozen=True, slots=True)
class SourceOnlyOptions:
    """Nothing to choose."""


class SourceOnly(Blind):
    """Answers with the frozen source network and its own statistics."""

    def adapt(self, images: Tensor) -> Adaptation:
        """Answer; learn nothing."""
        logits = self.ask(images)
        yield logits
        return {"entropy": entropy(logits).mean()}

    def read(self, logits: Tensor, memory: Memory | None = None) -> Tensor:  # noqa: ARG002 - nothing was learned
        """The source's logits."""
        return logits

    def answerer(self) -> Answerer:
        """The source."""
        return Answerer(self.network, by_batch=False)
