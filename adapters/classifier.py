"""The deployed model as every method sees it: images in [0, 1] go in, logits and features come out."""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import cast

import torch
from torch import Tensor, nn

IMAGES = 4
"""Dimensions of a batch of images, and of what is convolved with it."""

PIXELS = 1 << 20
"""Of images that pass through a network together: what layers make of more is fetched from the kernel page by page."""


class Classifier(nn.Module):
    """A network with its normalization in front, frozen and in evaluation mode from here on.

    ``opaque`` says that it only answers: it has no layers to look into, and nothing in it can learn.
    Its convolutions' weights are laid channels last, in place: convolutions and norms are fastest so. Networks with
    GroupNorm are left alone, whose backward pass on a CPU kills the process where its input has channels last.

    With ``mixed`` precision, convolutions and linear maps read and write that dtype; the weights, the statistics that
    norms take, the head and all that comes after it keep the dtype of the network. Layers that would be slower in it
    compute as ever.

    Args:
        network: any module that maps N x 3 x H x W to N x C logits. It is frozen in place.
        mean: per-channel mean that the network was trained with.
        std: per-channel standard deviation that the network was trained with.
        head: dotted name of the ``nn.Linear`` that answers, as `head_of` finds it; absent: the last one; empty: none.
        num_classes: C; read from the head where there is one.
        mixed: the dtype that convolutions and linear maps compute in; absent: that of the network.

    Raises:
        ValueError: ``head`` names no linear layer, C is neither given nor to be found, or the device has no ``mixed``.
    """

    mean: Tensor
    std: Tensor

    def __init__(  # noqa: PLR0913 - what is said of a network
        self,
        network: nn.Module,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        *,
        head: str | None = None,
        num_classes: int | None = None,
        mixed: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        grouped = any(isinstance(module, nn.GroupNorm) for module in network.modules())  # crashes torch 2.13 backward
        for parameter in network.parameters():
            if parameter.dim() == IMAGES and not grouped:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        self.head = head if head is not None else _last_linear(network)
        linear = dict(network.named_modules()).get(self.head) if self.head else None
        if head and not isinstance(linear, nn.Linear):
            raise ValueError(f"head: {head!r} is no linear layer of the network")
        classes = num_classes or (linear.out_features if isinstance(linear, nn.Linear) else None)
        if classes is None:
            raise ValueError("num_classes: the network has no linear layer to read it from; name the number of classes")
        self.num_classes = classes
        self.opaque = bool(getattr(network, "opaque", False))
        like = next((p for p in network.parameters() if p.is_floating_point()), torch.empty(0))
        for name, values in (("mean", mean), ("std", std)):
            tensor = torch.tensor(list(values), dtype=like.dtype, device=like.device)
            self.register_buffer(name, tensor.view(1, -1, 1, 1))
        self.mixed = mixed
        if mixed is not None:
            if not torch.amp.is_autocast_available(like.device.type) or like.dtype == torch.float64:
                raise ValueError(f"mixed: {mixed} is of no use beside {like.dtype} on {like.device.type}")
            for layer in network.modules():
                if (layer is linear or _slow_in_bfloat16(layer)) and not isinstance(layer, _Whole):
                    layer.__class__ = type(type(layer).__name__, (_Whole, type(layer)), {})

    def forward(self, images: Tensor) -> Tensor:
        """Logits, N x C, of images N x 3 x H x W in [0, 1], in the dtype of the network."""
        normalized = (images.to(self.mean.dtype) - self.mean) / self.std
        with self.computing():
            logits: Tensor = self.network(normalized)
        return logits if self.mixed is None else logits.to(self.mean.dtype)

    def portions(self, images: Tensor) -> Sequence[Tensor]:
        """``images`` in parts of which no layer makes more than the C library keeps from one layer for the next.

        For passes in which images do not see one another. On an accelerator they stay together.
        """
        if images.device.type != "cpu" or images.dim() != IMAGES:
            return [images]
        return images.chunk(max(1, math.ceil(len(images) * images.size(2) * images.size(3) / PIXELS)))

    def computing(self) -> AbstractContextManager[object]:
        """Within, parts of the network compute as they do when images pass through it."""
        if self.mixed is None:
            return nullcontext()
        return torch.autocast(self.mean.device.type, self.mixed, cache_enabled=False)

    @contextmanager
    def unmixed(self) -> Iterator[None]:
        """Within, all is computed in the dtype of the network."""
        mixed, self.mixed = self.mixed, None
        try:
            yield
        finally:
            self.mixed = mixed

    def with_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, N x C, and features, N x D: what the head was given, gradient included.

        Raises:
            ValueError: the network has no linear head.
        """
        if not self.head:
            raise ValueError("head: the network has no linear layer whose input could serve as features; name it")
        caught: list[Tensor] = []
        hook = self.network.get_submodule(self.head).register_forward_pre_hook(lambda _, given: caught.append(given[0]))
        try:
            logits = self(images)
        finally:
            hook.remove()
        return logits, caught[-1].flatten(1).to(logits.dtype)


class _Whole(nn.Module):
    """A layer that computes in the dtype of its weight, whatever is computed around it; a head answers in it too."""

    weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """What the layer gives."""
        if x.dtype == self.weight.dtype and not torch.is_autocast_enabled(x.device.type):
            return cast("Tensor", super().forward(x))
        with torch.autocast(x.device.type, enabled=False):
            y: Tensor = super().forward(x.to(self.weight.dtype))
        return y if isinstance(self, nn.Linear) else y.to(x.dtype)


def _slow_in_bfloat16(layer: nn.Module) -> bool:
    """Whether the backward pass of a layer takes many times as long in bfloat16: strided depthwise ones on a CPU."""
    return (
        isinstance(layer, nn.Conv2d)
        and 1 < layer.groups == layer.in_channels
        and max(layer.stride) > 1
        and (layer.weight.device.type == "cpu")
    )


def _last_linear(network: nn.Module) -> str | None:
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear) and name]
    return names[-1] if names else None


@torch.no_grad()
def head_of(classifier: Classifier, images: Tensor) -> str:
    """The linear layer whose output is the answer to ``images``: its dotted name; empty where there is none.

    Layers that are never called, and heads beside the one that answers, are thereby told from it.
    """
    said: list[tuple[str, Tensor]] = []
    linears = {name: m for name, m in classifier.network.named_modules() if isinstance(m, nn.Linear) and name}
    hooks = [
        linear.register_forward_hook(lambda _, __, out, name=name: said.append((name, out)))
        for name, linear in linears.items()
    ]
    try:
        logits = classifier(images)
    finally:
        for hook in hooks:
            hook.remove()
    same = [name for name, out in said if out.shape == logits.shape and torch.equal(out, logits)]
    wide = [name for name, out in said if out.size(-1) == logits.size(1)]
    return next(iter([*same[-1:], *wide[-1:]]), "")
