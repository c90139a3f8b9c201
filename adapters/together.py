"""Several streams answered in one forward, each by its own scale, shift and statistics."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from adapters.adapter import Adapter, Memory
from adapters.blind import Blind
from adapters.eata import Eata
from adapters.norm_only import NormOnly
from adapters.parts.norms import StreamNorm, by_group, normalizing
from adapters.roid import Roid
from adapters.rpl import Rpl
from adapters.sar import Sar
from adapters.tent import Tent

LEARNING = (Tent, Rpl, Eata, Sar, Roid)
"""Methods whose answer is one forward by batch statistics, and whose learning tensors are scales and shifts."""

ALIKE = ("batch", "prior")
"""Modes of `NormOnly` that look at nothing but the batch."""


def answers_together(adapter: Adapter) -> bool:
    """Whether `predict_together` can be asked: what learns is scale and shift of batch normalizations, or no layer."""
    if isinstance(adapter, Blind):
        return True
    if isinstance(adapter, NormOnly):
        return adapter.options.mode in ALIKE
    if not isinstance(adapter, LEARNING):
        return False
    affine = {id(p) for norm in _norms(adapter).values() for p in (norm.weight, norm.bias)}
    return all(id(parameter) in affine for parameter in adapter.network.learns.parameters)


@torch.no_grad()
def predict_together(
    adapter: Adapter,
    images: Tensor,
    sizes: Sequence[int],
    memories: Sequence[Memory | None],
    source_images: Sequence[float] | None = None,
) -> Tensor:
    """What `Adapter.predict` says of each part of ``images`` after `Adapter.load` of its memory, in one forward.

    Args:
        adapter: one that `answers_together`; it is left as it is.
        images: N x 3 x H x W, part after part.
        sizes: how many of them each part has, at least 1.
        memories: what each part's stream has learned; None: it is newborn.
        source_images: what the source counts as beside each part's own images, as in `pseudo_counted`; absent: nothing.

    Returns:
        Logits, N x C.
    """
    if isinstance(adapter, Blind):
        parts = zip(torch.split(adapter.ask(images), list(sizes)), memories, strict=True)
        return torch.cat([adapter.read(part, memory or adapter.birth) for part, memory in parts])
    if not isinstance(adapter, NormOnly | Tent | Rpl | Eata | Sar | Roid):
        raise TypeError(f"{type(adapter).__name__} answers one stream at a time")
    if isinstance(adapter, NormOnly) and adapter.options.mode == "prior":
        source_images = [max(adapter.options.source_images, n) for n in source_images or [0.0] * len(sizes)]
    of = torch.repeat_interleave(torch.tensor(sizes, device=images.device))
    birth = adapter.birth
    affine = {norm: _affine(name, norm, [memory or birth for memory in memories])
              for name, norm in _norms(adapter).items()}  # fmt: skip
    with normalizing(adapter.network, by_group(of, affine, source_images)):
        logits: Tensor = adapter.network(images)
    if isinstance(adapter, Roid):
        return torch.cat([adapter.correct(part) for part in torch.split(logits, list(sizes))])
    return logits


def _norms(adapter: Adapter) -> Mapping[str, StreamNorm]:
    return {name: module for name, module in adapter.named_modules() if isinstance(module, StreamNorm)}


def _affine(name: str, norm: StreamNorm, memories: Sequence[Memory]) -> tuple[Tensor, Tensor]:
    """Scale and shift of one norm for each of the memories, G x C; the source's where they do not move."""

    def each(leaf: str, own: Tensor) -> Tensor:
        known = [memory.get(f"{name}.{leaf}", own) for memory in memories]
        return own if all(tensor is own for tensor in known) else torch.stack([tensor.to(own) for tensor in known])

    return each("weight", norm.weight), each("bias", norm.bias)
