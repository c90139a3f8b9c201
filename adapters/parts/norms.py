"""Batch normalization at test time: which mean and variance normalize, said where the network is called.

Rules after Schneider et al. 2020 (pseudo-counts), Nado et al. 2020 and Wang et al. 2021 (batch statistics), Gong et al.
2022 (instance-aware), Yuan et al. 2023 (robust norm).
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

Statistics = tuple[Tensor, Tensor]

ROW = 256
"""Numbers in a row that statistics are taken of."""

FEWEST = 16
"""Images that the source counts as at least, where it counts at all: beside a few, a batch's own say little."""


def beside(mixed: float, images: int) -> float:
    """How many images the source counts as beside a batch of so many, where ``mixed`` are wanted for each."""
    return max(mixed * images, FEWEST) if mixed else 0.0


def own_share(source_images: float, images: int) -> float:
    """What a batch's own statistics weigh beside so many images of the source (Schneider et al. 2020, eq. 3)."""
    return images / (source_images + images)


class StreamNorm(nn.Module):
    """A ``BatchNorm`` layer whose statistics are chosen at each call by its ``rule``.

    ``mean`` and ``var`` are the source's until a rule proposes others and `keep` accepts them. Where it goes by the
    batch, ``mixed`` is how many images the source counts as beside each image of it; 0, as published: none.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm, *, moves: bool) -> None:
        super().__init__()
        if norm.running_mean is None or norm.running_var is None:
            raise ValueError("a BatchNorm layer without running statistics has no source to fall back to")
        self.eps = norm.eps
        self.weight = norm.weight
        self.bias = norm.bias
        self.register_buffer("mean", norm.running_mean.clone() if moves else norm.running_mean)
        self.register_buffer("var", norm.running_var.clone() if moves else norm.running_var)
        self.source: Statistics = (norm.running_mean, norm.running_var)
        self.rule: Rule = from_batch
        self.proposed: Statistics | None = None
        self.mixed = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``x`` (N x C, N x C x L or N x C x H x W) by the rule in force."""
        return self.rule(self, x)

    def normalize(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        """``x`` by the given statistics, through which no gradient flows."""
        return functional.batch_norm(x, mean, var, self.weight, self.bias, False, 0.0, self.eps)

    def normalize_through(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        """``x`` by the given statistics (C, or N x C), through which gradients do flow; in the dtype of these."""
        lead = mean.dim()
        shape = mean.shape + (1,) * (x.dim() - 2) if lead > 1 else (1, -1) + (1,) * (x.dim() - 2)
        affine = (1, -1) + (1,) * (x.dim() - 2)
        scale = torch.rsqrt(var + self.eps)
        y = (x - mean.view(shape)) * scale.view(shape)
        if self.weight is not None:
            y = y * self.weight.view(affine) + self.bias.view(affine)
        return y


Rule = Callable[[StreamNorm, Tensor], Tensor]


@torch.no_grad()
def moments(x: Tensor, *, unbiased: bool = False) -> Statistics:
    """Mean and variance of each channel over all else: two tensors of C, through which no gradient flows.

    They are float32 where ``x`` is in bfloat16.
    """
    rows = _side_by_side(x)
    ignored = [x.new_zeros(rows.size(1), dtype=_wide(x)) for _ in range(2)]  # the statistics come in their dtype
    mean, var = torch.ops.aten.batch_norm_update_stats(rows, *ignored, 0.0)  # torch.var_mean takes ten times as long
    if rows is not x:
        apart = mean.view(-1, x.size(1))
        mean = apart.mean(0)
        var = var.view(-1, x.size(1)).mean(0) + (apart - mean).square_().mean(0)
    count = x.numel() / mean.numel()
    return mean, var * (count / (count - 1)) if unbiased else var


def _side_by_side(x: Tensor) -> Tensor:
    """``x`` with several places in a row, where memory has them so: a processor takes in few channels slowly."""
    if x.is_cuda or x.dim() != 4 or not x.is_contiguous(memory_format=torch.channels_last):  # noqa: PLR2004 - images
        return x
    places = math.gcd(x.numel() // x.size(1), max(1, ROW // x.size(1)))
    return x if places == 1 else x.permute(0, 2, 3, 1).reshape(-1, places * x.size(1))


def alone(x: Tensor) -> bool:
    """True where a channel has a single value, so that its variance means nothing."""
    return x.numel() <= x.size(1)


def from_source(norm: StreamNorm, x: Tensor) -> Tensor:
    """As the network was deployed."""
    return norm.normalize(x, *norm.source)


def from_batch(norm: StreamNorm, x: Tensor) -> Tensor:
    """By this batch: its mean and biased variance, and what of the source's the norm mixes in.

    A single value per channel falls back to the source.
    """
    if alone(x):
        return from_source(norm, x)
    if norm.mixed:
        weight = own_share(beside(norm.mixed, x.size(0)), x.size(0))
        return cast("Tensor", _Between.apply(x, norm.weight, norm.bias, (norm.source, weight, norm.eps))[0])  # type: ignore[no-untyped-call]
    return cast("Tensor", _ByBatch.apply(x, norm.weight, norm.bias, norm.eps))  # type: ignore[no-untyped-call]


def by_part(parts: int) -> Rule:
    """Each of so many equal parts of the batch by itself: many views of the same images may then share one pass."""

    def rule(norm: StreamNorm, x: Tensor) -> Tensor:
        return torch.cat([from_batch(norm, part) for part in x.chunk(parts)])

    return rule


Affine = Mapping["StreamNorm", tuple[Tensor, Tensor]]
"""Scale and shift of each norm, for each group of images: two tensors of G x C."""


def by_group(of: Tensor, affine: Affine, source_images: Sequence[float] | None = None) -> Rule:
    """Each group of images by its own statistics, scale and shift: the streams of a batch do not see one another.

    Args:
        of: the group of each image, N, from 0 on.
        affine: the norms that differ between groups; all others are as they are.
        source_images: what the source counts as beside each group's own images, as in `pseudo_counted`; absent:
            nothing. What a norm mixes in otherwise does not count here.
    """
    count = torch.bincount(of)
    source = torch.tensor(source_images or [0.0] * len(count), dtype=torch.float32, device=of.device)
    weight = (count / (source + count))[:, None]

    def rule(norm: StreamNorm, given: Tensor) -> Tensor:
        x = given.to(_wide(given))
        spots = x.flatten(2) if x.dim() > 2 else x[:, :, None]  # noqa: PLR2004 - N x C
        share = (1.0 / count).to(x)[:, None]
        mean = torch.zeros(len(count), x.size(1)).to(x).index_add_(0, of, spots.mean(2)) * share
        spread = (spots - mean[of][:, :, None]).square().mean(2)
        var = torch.zeros_like(mean).index_add_(0, of, spread) * share
        own = (weight * ((source > 0) | (count * spots.size(2) > 1))[:, None]).to(x)  # a single value says nothing
        mean, var = torch.lerp(norm.source[0], mean, own), torch.lerp(norm.source[1], var, own)
        scale, shift = affine.get(norm, (norm.weight, norm.bias))
        factor = torch.rsqrt(var + norm.eps) if scale is None else torch.rsqrt(var + norm.eps) * scale
        offset = -mean * factor if shift is None else shift - mean * factor
        shape = (len(of), -1) + (1,) * (x.dim() - 2)
        return torch.addcmul(offset[of].view(shape), x, factor[of].view(shape)).to(given.dtype)

    return rule


def from_running(norm: StreamNorm, x: Tensor) -> Tensor:
    """By the statistics kept so far."""
    return norm.normalize(x, norm.mean, norm.var)


def from_proposed(norm: StreamNorm, x: Tensor) -> Tensor:
    """By the statistics that an earlier pass over this batch proposed."""
    return norm.normalize(x, *(norm.proposed or (norm.mean, norm.var)))


def mixed(weight: float) -> Rule:
    """(1 - weight) source + weight batch, the batch's variance unbiased."""

    def rule(norm: StreamNorm, x: Tensor) -> Tensor:
        if alone(x):
            return from_source(norm, x)
        return norm.normalize(x, *_between(norm.source, moments(x, unbiased=True), weight))

    return rule


def pseudo_counted(source_images: float) -> Rule:
    """The source counts as so many images beside the batch's own (Schneider et al. 2020, eq. 3)."""

    def rule(norm: StreamNorm, x: Tensor) -> Tensor:
        if alone(x) and source_images == 0:
            return from_source(norm, x)
        weight = own_share(max(source_images, beside(norm.mixed, x.size(0))), x.size(0))
        return norm.normalize(x, *_between(norm.source, moments(x), weight))

    return rule


def averaged(momentum: float) -> Rule:
    """By running statistics that include this batch; they are proposed, not yet kept."""

    def rule(norm: StreamNorm, x: Tensor) -> Tensor:
        _propose(norm, x, momentum)
        return from_proposed(norm, x)

    return rule


def averaged_upstream_by_batch(momentum: float) -> Rule:
    """Propose running statistics from activations that batch statistics normalized upstream."""

    def rule(norm: StreamNorm, x: Tensor) -> Tensor:
        _propose(norm, x, momentum)
        return from_batch(norm, x)

    return rule


def robust(alpha: float) -> Rule:
    """RoTTA's norm: running statistics with this batch mixed in, the gradient flowing through the batch's share."""

    def rule(norm: StreamNorm, x: Tensor) -> Tensor:
        given = (norm.mean, norm.var), alpha, norm.eps
        y, mean, var = _Between.apply(x, norm.weight, norm.bias, given)  # type: ignore[no-untyped-call]
        norm.proposed = (mean, var)
        return cast("Tensor", y)

    return rule


class _ByBatch(torch.autograd.Function):
    """What ``functional.batch_norm`` gives in training, by `moments`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:  # noqa: ANN401 - torch's own context
        """The normalized batch."""
        mean, var = moments(x)
        ctx.save_for_backward(x, weight, mean, torch.rsqrt(var + eps))
        ctx.eps = eps
        return functional.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 - as above
        """Through the statistics too."""
        x, weight, mean, per_deviation = ctx.saved_tensors
        along, to_weight, to_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, None, None, mean, per_deviation, True, ctx.eps, [ctx.needs_input_grad[0], True, True]
        )
        return along, *((to_weight, to_bias) if weight is not None else (None, None)), None


class _Between(torch.autograd.Function):
    """Normalize by a mixture of given and own statistics; backward in three native passes over the batch."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's own context
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mixed: tuple[Statistics, float, float],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The normalized batch, and by which mean and variance; ``mixed``: into which, by which share; and eps."""
        (given, share, eps), own = mixed, moments(x)
        mean, var = _between(given, own, share)
        ctx.save_for_backward(x, weight, own[0], mean, var)
        ctx.share, ctx.eps = share, eps
        ctx.mark_non_differentiable(mean, var)
        return functional.batch_norm(x, mean, var, weight, bias, False, 0.0, eps), mean, var

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 - as above
        """Through the statistics too, as far as they are the batch's."""
        x, weight, own_mean, mean, var = ctx.saved_tensors
        to_x = ctx.needs_input_grad[0]
        along, to_weight, to_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, var, None, None, False, ctx.eps, [to_x, True, True]
        )
        if to_x:
            per_deviation = torch.rsqrt(var + ctx.eps) * (1.0 if weight is None else weight)
            share = ctx.share * mean.numel() / x.numel()
            by_mean = -share * per_deviation * to_bias
            by_var = -share * per_deviation * torch.rsqrt(var + ctx.eps) * to_weight  # times x - own_mean
            along += functional.batch_norm(x, own_mean, torch.ones_like(var), by_var, by_mean, False, 0.0, 0.0)
        return along, *((to_weight, to_bias) if weight is not None else (None, None)), None


def instance_aware(strictness: float) -> Rule:
    """IABN: each image's own statistics where they leave the source's by more than chance (Gong et al. 2022)."""

    def rule(norm: StreamNorm, x: Tensor) -> Tensor:
        pixels = x[0, 0].numel()
        if pixels <= 1:
            return from_source(norm, x)
        var_own, mean_own = torch.var_mean(x.flatten(2).to(_wide(x)), 2, correction=0)
        mean, var = norm.source
        spread = var + norm.eps
        to_mean = _shrink(mean_own - mean, strictness * torch.sqrt(spread / pixels))
        to_var = _shrink(var_own - var, strictness * spread * (2.0 / (pixels - 1)) ** 0.5)
        return norm.normalize_through(x, mean + to_mean, (var + to_var).clamp(min=0.0)).to(x.dtype)

    return rule


@contextmanager
def normalizing(network: nn.Module, rule: Rule) -> Iterator[None]:
    """Within, every `StreamNorm` of ``network`` follows ``rule``."""
    norms = [m for m in network.modules() if isinstance(m, StreamNorm)]
    before = [n.rule for n in norms]
    for norm in norms:
        norm.rule = rule
    try:
        yield
    finally:
        for norm, old in zip(norms, before, strict=True):
            norm.rule = old


def mix(network: nn.Module, source_images: float) -> None:
    """From here on the norms of ``network`` mix in so many images of the source for each image of a batch."""
    for module in network.modules():
        if isinstance(module, StreamNorm):
            module.mixed = source_images


Proposals = list[tuple[StreamNorm, Tensor, Tensor]]


def proposals(network: nn.Module) -> Proposals:
    """The statistics that the norms of ``network`` proposed when it was last called, out of their hands."""
    norms = [m for m in network.modules() if isinstance(m, StreamNorm)]
    taken = [(norm, *norm.proposed) for norm in norms if norm.proposed is not None]
    for norm in norms:
        norm.proposed = None
    return taken


@torch.no_grad()
def keep(proposed: Proposals) -> None:
    """Accept proposed statistics: all of them, or none where one is not finite."""
    if not proposed:
        return
    sound = torch.isfinite(torch.stack([mean.sum() + var.sum() for _, mean, var in proposed])).all()
    for norm, mean, var in proposed:
        norm.mean.copy_(torch.where(sound, mean, norm.mean))
        norm.var.copy_(torch.where(sound, var, norm.var))


def _propose(norm: StreamNorm, x: Tensor, momentum: float) -> None:
    if alone(x):
        norm.proposed = (norm.mean, norm.var)
    else:
        kept = (norm.mean, norm.var)
        mean, var = _between(kept, moments(x.detach(), unbiased=True), momentum)
        norm.proposed = (mean, var)


def _between(source: Statistics, batch: Statistics, weight: float) -> Statistics:
    return torch.lerp(source[0], batch[0], weight), torch.lerp(source[1], batch[1], weight)


def _wide(x: Tensor) -> torch.dtype:
    """The dtype that statistics of ``x`` are taken in."""
    return torch.float32 if x.dtype == torch.bfloat16 else x.dtype


def _shrink(value: Tensor, by: Tensor) -> Tensor:
    return value.sign() * (value.abs() - by).clamp(min=0.0)
