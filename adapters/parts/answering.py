"""What the deployed network would be, were it to answer as the method does: its tensors by their own names."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adapters.parts.network import Network
from adapters.parts.norms import (
    Rule,
    StreamNorm,
    alone,
    from_batch,
    moments,
    normalizing,
    proposals,
    pseudo_counted,
)

_MEAN, _VAR = "running_mean", "running_var"


@dataclass(frozen=True, slots=True)
class Answerer:
    """One network of the deployed architecture whose logits are the method's answer.

    Attributes:
        network: whose tensors answer.
        by_batch: whether its norms go by the batch, or by the statistics that they keep.
        source_images: as how many images the source's statistics count beside the batch's.
    """

    network: Network
    by_batch: bool = True
    source_images: float = 0.0

    @property
    def rule(self) -> Rule:
        """How the norms go by the batch."""
        return pseudo_counted(self.source_images) if self.source_images else from_batch

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that learn, and the statistics that are kept, by the names of the deployed network."""
        inside = self.network.classifier.network
        learns = {id(p) for p in self.network.vector.parameters} if self.network.vector is not None else set()
        found = {name: p.detach() for name, p in inside.named_parameters() if id(p) in learns}
        if not self.by_batch:
            for name, norm in _norms(inside):
                found |= _statistics(name, norm.mean, norm.var)
        return found

    @torch.no_grad()
    def seen(self, images: Tensor) -> dict[str, Tensor]:
        """The statistics that would answer like this batch does, were they kept; none where they are kept already."""
        if not self.by_batch:
            return {}
        with normalizing(self.network, _noting(self.rule)):
            self.network(images)
        noted = {norm: (mean, var) for norm, mean, var in proposals(self.network)}
        share = len(images) / (self.source_images + len(images))
        found: dict[str, Tensor] = {}
        for name, norm in _norms(self.network.classifier.network):
            mean, var = noted[norm]
            source_mean, source_var = norm.source
            found |= _statistics(name, torch.lerp(source_mean, mean, share), torch.lerp(source_var, var, share))
        return found

    def moving(self) -> tuple[str, ...]:
        """Names of all tensors that `tensors` and `seen` give."""
        statistics = [_statistics(name, norm.mean, norm.var) for name, norm in _norms(self.network.classifier.network)]
        return tuple(dict.fromkeys((*self.tensors(), *(name for pair in statistics for name in pair))))


@dataclass(frozen=True, slots=True)
class HeadAnswerer(Answerer):
    """The deployed network by its own statistics, its logits scaled and shifted by its head: as the method is just now.

    Attributes:
        scale: what logits are multiplied by.
        shift: what is added to them then, C.
    """

    by_batch: bool = False
    scale: float = 1.0
    shift: Tensor | None = None

    @classmethod
    def of(cls, network: Network, scale: float, shift: Tensor | None = None) -> "HeadAnswerer | None":
        """The answerer; None where no linear layer with a bias gives the network's logits."""
        classifier = network.classifier
        linear = classifier.network.get_submodule(classifier.head) if classifier.head else None
        if not isinstance(linear, nn.Linear) or linear.bias is None:
            return None
        return cls(network, scale=scale, shift=shift)

    def tensors(self) -> dict[str, Tensor]:
        """Weight and bias of the head."""
        head = self.network.classifier.head
        linear = self.network.classifier.network.get_submodule(head or "")
        assert isinstance(linear, nn.Linear)  # noqa: S101 - `of` has looked
        weight, bias = linear.weight.detach() * self.scale, linear.bias.detach() * self.scale
        return {f"{head}.weight": weight, f"{head}.bias": bias if self.shift is None else bias + self.shift.to(bias)}

    def moving(self) -> tuple[str, ...]:
        """Names of both."""
        return tuple(self.tensors())


def _noting(rule: Rule) -> Rule:
    """``rule``, and each layer proposes the batch's own mean and unbiased variance."""

    def noted(norm: StreamNorm, x: Tensor) -> Tensor:
        norm.proposed = norm.source if alone(x) else moments(x.detach(), unbiased=True)
        return rule(norm, x)

    return noted


def _norms(network: nn.Module) -> list[tuple[str, StreamNorm]]:
    return [(name, module) for name, module in network.named_modules() if isinstance(module, StreamNorm)]


def _statistics(name: str, mean: Tensor, var: Tensor) -> Mapping[str, Tensor]:
    return {f"{name}.{_MEAN}": mean.detach(), f"{name}.{_VAR}": var.detach()}
