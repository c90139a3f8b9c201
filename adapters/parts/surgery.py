"""Where in a network something can be grafted: its residual blocks, and parts of several."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from math import ceil

import torch
from torch import Tensor, nn

from adapters.classifier import Classifier

_SIDES = (64, 32, 224, 128, 96, 256, 384)
"""Image sides with which the shapes inside a network are looked up, until one fits."""


@dataclass(frozen=True, slots=True)
class Part:
    """Consecutive blocks of a network, by name, and what goes in and comes out."""

    blocks: tuple[str, ...]
    channels_in: int
    channels_out: int
    stride: int


def residual_blocks(network: nn.Module) -> list[str]:
    """Names of the blocks of a residual network, in order: members of a sequence that hold two convolutions or more."""
    found: list[str] = []

    def search(module: nn.Module, path: str) -> None:
        for name, child in module.named_children():
            listed = isinstance(module, nn.Sequential | nn.ModuleList)
            block = listed and not isinstance(child, nn.Sequential | nn.ModuleList)
            if block and sum(isinstance(m, nn.Conv2d) for m in child.modules()) > 1:
                found.append(path + name)
            else:
                search(child, f"{path}{name}.")

    search(network, "")
    return found


def divide(blocks: int) -> list[int]:
    """How many blocks each of at most four parts takes: one part in six, six, three and three (EcoTTA, table 13).

    >>> divide(12), divide(18), divide(16), divide(9), divide(3)
    ([2, 2, 4, 4], [3, 3, 6, 6], [3, 3, 5, 5], [2, 1, 3, 3], [1, 1, 1])
    """
    ends = sorted({0, *(ceil(blocks * share / 6) for share in (1, 2, 4, 6))})
    return [end - start for start, end in pairwise(ends)]


def parts_of(classifier: Classifier, blocks: Sequence[str] = (), sizes: Sequence[int] = ()) -> list[Part]:
    """Cut a network into parts of consecutive blocks.

    Args:
        classifier: the deployed model.
        blocks: dotted names of its blocks, in order; found by `residual_blocks` where absent.
        sizes: how many blocks each part takes; `divide` decides where absent.

    Raises:
        ValueError: there are no such blocks, the sizes do not add up, or the network takes no image of a usual side.
    """
    names = list(blocks) or residual_blocks(classifier.network)
    if not names:
        raise ValueError("blocks: no residual blocks found in the network; name its blocks, in order")
    if unknown := [name for name in names if name not in dict(classifier.network.named_modules())]:
        raise ValueError(f"blocks: the network has no module {unknown[0]!r}")
    sizes = list(sizes) or divide(len(names))
    if sum(sizes) != len(names) or min(sizes) < 1:
        raise ValueError(f"partition: {sizes} does not divide {len(names)} blocks")
    shapes = _shapes(classifier, names)
    cuts = list(accumulate(sizes, initial=0))
    parts = []
    for start, end in pairwise(cuts):
        (before, _), (_, after) = shapes[names[start]], shapes[names[end - 1]]
        parts.append(Part(tuple(names[start:end]), before[1], after[1], round(before[2] / after[2])))
    return parts


@torch.no_grad()
def _shapes(classifier: Classifier, names: Sequence[str]) -> dict[str, tuple[torch.Size, torch.Size]]:
    """Shape of what each named module takes and gives, for an image of a side that the network accepts."""
    shapes: dict[str, tuple[torch.Size, torch.Size]] = {}

    def note(name: str, _: nn.Module, given: tuple[Tensor, ...], gave: Tensor) -> None:
        shapes[name] = (given[0].shape, gave.shape)

    hooks = [classifier.network.get_submodule(n).register_forward_hook(partial(note, n)) for n in names]
    try:
        for side in _SIDES:
            with suppress(RuntimeError, ValueError, AssertionError):
                classifier(classifier.mean.new_zeros(1, 3, side, side))
                return shapes
    finally:
        for hook in hooks:
            hook.remove()
    raise ValueError("the network takes no square image of a usual side, so the shapes inside it stay unknown")


def attention_or_convolutions(network: nn.Module) -> list[tuple[nn.Module, str]]:
    """The weights that low ranks are grafted on, as module and name: all linear maps of attention, else convolutions.

    Attention is a module whose class name says so; what it holds belongs to it.
    """
    linear: dict[tuple[int, str], tuple[nn.Module, str]] = {}
    for attention in network.modules():
        if "attention" in type(attention).__name__.lower():
            for module in attention.modules():
                if isinstance(module, nn.MultiheadAttention):
                    names = [
                        n for n, p in module.named_parameters(recurse=False) if p.dim() > 1 and n.endswith("weight")
                    ]
                else:
                    names = ["weight"] if isinstance(module, nn.Linear) else []
                linear |= {(id(module), name): (module, name) for name in names}
    convolutions: list[tuple[nn.Module, str]] = [(m, "weight") for m in network.modules() if isinstance(m, nn.Conv2d)]
    return list(linear.values()) or convolutions
