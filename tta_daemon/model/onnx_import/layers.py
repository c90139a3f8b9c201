"""Operators that networks call layers, computed with whatever weights they are given."""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from tta_daemon.model.imported import Compute
from tta_daemon.model.onnx_import.operator import Bound, Operator, bound, plain

_CONVOLUTIONS = {3: functional.conv1d, 4: functional.conv2d}
_MAXIMA = {3: functional.max_pool1d, 4: functional.max_pool2d}
_MEANS = {3: functional.avg_pool1d, 4: functional.avg_pool2d}


def margins(of: Bound, sizes: Sequence[int], kernel: Sequence[int]) -> list[int]:
    """What a window adds around its input, as torch wants it: last axis first, before and after.

    Args:
        of: a convolution or a pool.
        sizes: of the input, without batch and channels.
        kernel: of the window.
    """
    strides, dilations = of.integers("strides") or (1,) * len(kernel), of.integers("dilations") or (1,) * len(kernel)
    automatic = of.text("auto_pad", "NOTSET")
    if automatic in {"NOTSET", "VALID"}:
        pads = of.integers("pads") if automatic == "NOTSET" else None
        pads = pads or (0,) * (2 * len(kernel))
        before, after = pads[: len(kernel)], pads[len(kernel) :]
    else:
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        outs = [-(-size // s) for size, s in zip(sizes, strides, strict=True)]
        total = [max(0, (o - 1) * s + r - n) for o, s, r, n in zip(outs, strides, reach, sizes, strict=True)]
        less, more = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
        before, after = (less, more) if automatic == "SAME_UPPER" else (more, less)
    return [side for pair in reversed(list(zip(before, after, strict=True))) for side in pair]


def even(sides: Sequence[int]) -> tuple[int, ...] | None:
    """The padding of each axis, where it is the same before and after; else None."""
    before, after = tuple(reversed(sides[::2])), tuple(reversed(sides[1::2]))
    return before if before == after else None


def _conv(of: Bound) -> Compute:
    strides, dilations, groups = of.integers("strides") or 1, of.integers("dilations") or 1, of.integer("group", 1)

    def conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        sides = margins(of, x.shape[2:], weight.shape[2:])
        if (padding := even(sides)) is None:
            x, padding = functional.pad(x, sides), (0,) * (weight.dim() - 2)
        if x.dim() not in _CONVOLUTIONS:
            raise of.unsupported(f"convolutions over {x.dim() - 2} axes are not known")
        convolve = cast("Compute", _CONVOLUTIONS[x.dim()])
        return cast("Tensor", convolve(x, weight, bias, strides, padding, dilations, groups))

    return conv


def _max_pool(of: Bound) -> Compute:
    kernel = of.integers("kernel_shape") or ()
    strides, dilations, up = (
        of.integers("strides") or 1,
        of.integers("dilations") or 1,
        bool(of.integer("ceil_mode", 0)),
    )
    if len([name for name in of.node.outputs if name]) > 1:
        raise of.unsupported("where the largest lie is not told")

    def pool(x: Tensor) -> Tensor:
        sides = margins(of, x.shape[2:], kernel)
        if (padding := even(sides)) is None or any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
            x, padding = functional.pad(x, sides, value=float("-inf")), (0,) * len(kernel)
        return cast("Tensor", cast("Compute", _MAXIMA[x.dim()])(x, kernel, strides, padding, dilations, up))

    return pool


def _average_pool(of: Bound) -> Compute:
    kernel = of.integers("kernel_shape") or ()
    strides, up, all_count = (
        of.integers("strides") or 1,
        bool(of.integer("ceil_mode", 0)),
        bool(of.integer("count_include_pad", 0)),
    )
    if any(size != 1 for size in of.integers("dilations") or ()):
        raise of.unsupported("means over a window with gaps are not known")

    def pool(x: Tensor) -> Tensor:
        mean, sides = cast("Compute", _MEANS[x.dim()]), margins(of, x.shape[2:], kernel)
        if (padding := even(sides)) is not None and all(2 * p <= k for p, k in zip(padding, kernel, strict=True)):
            return cast("Tensor", mean(x, kernel, strides, padding, up, all_count))
        wide = mean(functional.pad(x, sides), kernel, strides, 0, up)
        if all_count:
            return cast("Tensor", wide)
        return cast("Tensor", wide / mean(functional.pad(torch.ones_like(x[:1, :1]), sides), kernel, strides, 0, up))

    return pool


def _batch_norm(of: Bound) -> Compute:
    eps = of.number("epsilon", 1e-5)
    if of.integer("training_mode", 0):
        raise of.unsupported("it normalizes by the batch; export the network in evaluation mode")
    return lambda x, weight, bias, mean, var: functional.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)


def _instance_norm(of: Bound) -> Compute:
    eps = of.number("epsilon", 1e-5)
    return lambda x, weight, bias: functional.instance_norm(x, None, None, weight, bias, True, 0.0, eps)


def _group_norm(of: Bound) -> Compute:
    eps, groups = of.number("epsilon", 1e-5), of.integer("num_groups", 1)

    def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        times = x.size(1) // len(weight)  # before opset 21 there was one number a group, not a channel
        return functional.group_norm(x, groups, weight.repeat_interleave(times), bias.repeat_interleave(times), eps)

    return norm


def _layer_norm(of: Bound) -> Compute:
    eps, axis = of.number("epsilon", 1e-5), of.integer("axis", -1)
    if len([name for name in of.node.outputs if name]) > 1:
        raise of.unsupported("mean and deviation are not told")
    return lambda x, weight, bias=None: functional.layer_norm(x, x.shape[axis:], weight, bias, eps)


def _rms_norm(of: Bound) -> Compute:
    eps, axis = of.number("epsilon", 1e-5), of.integer("axis", -1)
    return lambda x, weight: functional.rms_norm(x, x.shape[axis:], weight, eps)


def _attention(of: Bound) -> Compute:
    heads, keys = of.integer("q_num_heads", 0), of.integer("kv_num_heads", 0)
    scale, causal = of.node.attributes.get("scale"), bool(of.integer("is_causal", 0))
    if of.number("softcap", 0.0) or heads != keys or any(of.node.input(i) for i in (4, 5, 6)):
        raise of.unsupported("caps, memories and shared keys are not known")

    def apart(x: Tensor) -> Tensor:
        return x if x.dim() == 4 else x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)  # noqa: PLR2004 - N x heads x T x D

    def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        given = float(scale) if isinstance(scale, int | float) else None
        seen = functional.scaled_dot_product_attention(
            apart(q), apart(k), apart(v), attn_mask=mask, is_causal=causal, scale=given
        )
        return seen if q.dim() == 4 else seen.transpose(1, 2).flatten(2)  # noqa: PLR2004 - as above

    return attention


def _local_response(of: Bound) -> Compute:
    size, alpha = of.integer("size", 1), of.number("alpha", 1e-4)
    beta, bias = of.number("beta", 0.75), of.number("bias", 1.0)
    return lambda x: functional.local_response_norm(x, size, alpha, beta, bias)


OPERATORS: Mapping[str, Operator] = {
    "Attention": bound(_attention),
    "AveragePool": bound(_average_pool),
    "BatchNormalization": bound(_batch_norm),
    "Conv": bound(_conv),
    "GlobalAveragePool": plain(lambda x: x.mean(tuple(range(2, x.dim())), keepdim=True)),
    "GlobalMaxPool": plain(lambda x: x.amax(tuple(range(2, x.dim())), keepdim=True)),
    "GroupNormalization": bound(_group_norm),
    "InstanceNormalization": bound(_instance_norm),
    "LRN": bound(_local_response),
    "LayerNormalization": bound(_layer_norm),
    "MaxPool": bound(_max_pool),
    "RMSNormalization": bound(_rms_norm),
}
