"""A classifier of which some tensors learn, beside the source that it shares all others with."""

import copy
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from itertools import chain
from typing import cast

from torch import Tensor, nn

from adapters.classifier import Classifier
from adapters.parts.norms import StreamNorm
from adapters.parts.vector import Vector

Choice = Callable[[nn.Module], Iterable[nn.Parameter]]
"""Which parameters of a network learn."""

_AFFINE = (StreamNorm, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d)


class Network(nn.Module):
    """A fork of ``source``: the chosen parameters are its own, everything else is the source's very tensors.

    BatchNorm layers become `StreamNorm` and normalize by the batch unless `normalizing` says otherwise.

    Attributes:
        vector: the learning tensors, end to end.
        source: the same tensors of the source, end to end; the source's own storage, not a copy.

    Args:
        source: the frozen classifier. Its chosen tensors are laid end to end in place; their values stay.
        choose: which parameters learn; none where absent.
        statistics_move: the norms keep running statistics of their own.
    """

    def __init__(self, source: Classifier, choose: Choice | None = None, *, statistics_move: bool = False) -> None:
        super().__init__()
        self.classifier = fork(source)
        _swap_norms(self.classifier, moves=statistics_move)
        self.vector: Vector | None = None
        if choose is not None:
            chosen = list(dict.fromkeys(choose(self.classifier)))
            self.source = Vector(chosen)
            own = {id(p): nn.Parameter(p.detach().clone()) for p in chosen}
            _replace(self.classifier, own)
            self.vector = Vector(list(own.values()))

    def forward(self, images: Tensor) -> Tensor:
        """Logits, N x C."""
        return cast("Tensor", self.classifier(images))

    def with_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, N x C, and features, N x D."""
        return self.classifier.with_features(images)

    @property
    def learns(self) -> Vector:
        """The vector of a network that was built to learn."""
        if self.vector is None:
            raise ValueError("this network was built without tensors that learn")
        return self.vector


def fork(classifier: Classifier) -> Classifier:
    """The same modules anew around the very same tensors."""
    shared = {id(t): t for t in chain(classifier.parameters(), classifier.buffers())}
    return copy.deepcopy(classifier, shared)


def norm_affine(network: nn.Module, excluded: Sequence[str] = ()) -> Iterable[nn.Parameter]:
    """Scale and shift of every normalization layer, in the order of the network.

    Args:
        network: a classifier.
        excluded: shell patterns of layer names, as the wrapped network calls them, that are left out.
    """
    for name, module in network.named_modules():
        left_out = any(fnmatchcase(name.removeprefix("network."), pattern) for pattern in excluded)
        if isinstance(module, _AFFINE) and not left_out:
            yield from (p for p in (module.weight, module.bias) if isinstance(p, nn.Parameter))


def everything(network: nn.Module) -> Iterable[nn.Parameter]:
    """Every parameter."""
    return network.parameters()


def has_batch_norm(network: nn.Module) -> bool:
    """True where some layer can normalize by the batch."""
    return any(isinstance(m, StreamNorm | nn.modules.batchnorm._BatchNorm) for m in network.modules())  # noqa: SLF001 - torch's only common base


def _swap_norms(network: nn.Module, *, moves: bool) -> None:
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.modules.batchnorm._BatchNorm) and child.running_mean is not None:  # noqa: SLF001 - as above
                setattr(parent, name, StreamNorm(child, moves=moves))


def _replace(network: nn.Module, by: dict[int, nn.Parameter]) -> None:
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if id(parameter) in by:
                setattr(module, name, by[id(parameter)])
