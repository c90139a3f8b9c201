"""One forward of the frozen source model, and all that drift and accuracy are read from."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from adapters import Adapter, Classifier

LAYERS = 8
"""Norm layers looked into, evenly spread over the depth of the network: enough to see every shift, and cheap."""

COLUMNS = 4096
"""Most numbers kept of one image's statistics; of wider networks every k-th channel is."""

DEPTHS = ("first", "second", "third", "last")
"""Quarters of the network's depth."""

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.modules.instancenorm._InstanceNorm)  # noqa: SLF001 - torch's only common bases


@dataclass(frozen=True, slots=True)
class SourceView:
    """What the frozen source model makes of a batch.

    Attributes:
        logits: N x C.
        features: what the head was given, N x D; N x 0 where the network has no linear head.
        moments: mean and mean square of what enters some norm layers, by image, N x P.
    """

    logits: Tensor
    features: Tensor
    moments: Tensor

    def __len__(self) -> int:
        """How many images."""
        return len(self.logits)

    def split(self, sizes: Sequence[int]) -> "list[SourceView]":
        """Cut into views of so many images each."""
        parts = (torch.split(rows, list(sizes)) for rows in (self.logits, self.features, self.moments))
        return [SourceView(*rows) for rows in zip(*parts, strict=True)]


class Probe:
    """Asks the frozen source model, and looks into its norm layers while it answers.

    ``depth`` says of each of the P columns which quarter of the network it comes from.
    """

    def __init__(self, classifier: Classifier, layers: int = LAYERS) -> None:
        self.classifier = classifier
        norms = [module for module in classifier.modules() if isinstance(module, _NORMS)]
        count = min(layers, len(norms))
        picked = [round(i * (len(norms) - 1) / max(1, count - 1)) for i in range(count)]
        self._norms = [norms[i] for i in picked]
        self._stride = max(1, math.ceil(sum(map(_width, self._norms)) * 2 / COLUMNS))
        depths = []
        for norm, place in zip(self._norms, picked, strict=True):
            quarter = min(len(DEPTHS) - 1, place * len(DEPTHS) // len(norms))
            depths.append(torch.full((2 * len(range(0, _width(norm), self._stride)),), quarter))
        self.depth = torch.cat(depths) if depths else torch.zeros(0, dtype=torch.int64)

    def __call__(self, images: Tensor) -> SourceView:
        """Look at images, N x 3 x H x W in [0, 1]."""
        views = [self.look(part) for part in self.classifier.portions(images)]
        return SourceView(
            torch.cat([view.logits for view in views]),
            torch.cat([view.features for view in views]),
            torch.cat([view.moments for view in views]),
        )

    @torch.no_grad()
    def look(self, images: Tensor) -> SourceView:
        """The same, in one pass."""
        seen: list[Tensor] = []

        def look(norm: nn.Module, given: tuple[Tensor, ...]) -> None:
            seen.append(_moments(given[0].float(), norm, self._stride))

        hooks = [norm.register_forward_pre_hook(look) for norm in self._norms]
        try:
            if self.classifier.head:
                logits, features = self.classifier.with_features(images)
            else:
                logits, features = self.classifier(images), images.new_zeros(len(images), 0)
        finally:
            for hook in hooks:
                hook.remove()
        moments = torch.cat(seen, 1) if seen else images.new_zeros(len(images), 0)
        return SourceView(logits.float(), features.float(), moments)


@dataclass(frozen=True, slots=True)
class Head:
    """Features that an answer was made from, N x D, and the linear layer that made it."""

    features: Tensor
    weight: Tensor
    bias: Tensor | None

    def logits(self, features: Tensor) -> Tensor:
        """What the head answers."""
        return nn.functional.linear(features, self.weight, self.bias)


class HeadTap:
    """Remembers what went into the adapter's own heads while it answered."""

    def __init__(self) -> None:
        self._heads: list[Head] = []
        self._heard: nn.Module | None = None

    @contextmanager
    def on(self, adapter: Adapter) -> Iterator[None]:
        """Within, every head of ``adapter`` is listened to; what was heard before is forgotten."""
        self._heads = []
        linears = [m.network.get_submodule(m.head) for m in adapter.modules() if isinstance(m, Classifier) and m.head]
        hooks = [linear.register_forward_pre_hook(self._hear) for linear in linears]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def heard(self, head: Head) -> None:
        """Somebody else listened."""
        self._heads, self._heard = [head], None

    @torch.no_grad()
    def behind(self, logits: Tensor) -> Head | None:
        """The features and head whose answer is nearest to ``logits``; None where no head answered these images."""
        right_size = [head for head in _joined(self._heads, len(logits)) if len(head.features) == len(logits)]
        if not right_size:
            return None
        said = logits.argmax(1)
        return max(right_size, key=lambda head: float((head.logits(head.features).argmax(1) == said).float().mean()))

    def _hear(self, linear: nn.Module, given: tuple[Tensor, ...]) -> None:
        if not isinstance(linear, nn.Linear):
            return
        features = given[0].detach().flatten(1).to(linear.weight.dtype)
        if self._heads and self._heard is linear:  # it does not learn while it answers
            self._heads.append(replace(self._heads[-1], features=features))
            return
        self._heard = linear
        bias = None if linear.bias is None else linear.bias.detach().clone()
        self._heads.append(Head(features, linear.weight.detach().clone(), bias))


def _joined(heads: Sequence[Head], count: int) -> list[Head]:
    """The heads, of which those are one that heard ``count`` images part by part."""
    found: list[Head] = []
    for head in heads:
        last = found[-1] if found else None
        if last is not None and last.weight is head.weight and len(last.features) + len(head.features) <= count:
            found[-1] = replace(last, features=torch.cat((last.features, head.features)))
        else:
            found.append(head)
    return found


def _width(norm: nn.Module) -> int:
    if isinstance(norm, nn.LayerNorm):
        return norm.normalized_shape[-1]
    return int(norm.num_channels if isinstance(norm, nn.GroupNorm) else norm.num_features)  # type: ignore[arg-type]


def _moments(x: Tensor, norm: nn.Module, stride: int) -> Tensor:
    """Mean and mean square of each stride-th channel over all positions of an image, N x 2c."""
    by_place = x.flatten(1, -2).transpose(1, 2) if isinstance(norm, nn.LayerNorm) and x.dim() > 2 else x  # noqa: PLR2004 - N x D
    spots = by_place[:, ::stride].unsqueeze(-1) if by_place.dim() == 2 else by_place[:, ::stride].flatten(2)  # noqa: PLR2004 - N x D
    return torch.cat((spots.mean(2), spots.square().mean(2)), 1)
