"""Operators that bring many numbers down to few, or set them in relation to each other."""

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from tta_daemon.model.imported import Compute
from tta_daemon.model.onnx_import.operator import Bound, Operator, bound

Reduction = Callable[[Tensor, list[int], bool], Tensor]


def _reduced(reduction: Reduction) -> Operator:
    """Over axes that newer versions give as an input and older ones as an attribute; over all where there are none."""

    def bind(of: Bound) -> Compute:
        named, keep = of.integers("axes"), bool(of.integer("keepdims", 1))
        idle = bool(of.integer("noop_with_empty_axes", 0))

        def reduce(x: Tensor, axes: Sequence[int] | None = named) -> Tensor:
            if not axes:
                return x if idle else reduction(x, list(range(x.dim())), keep)
            return reduction(x, list(axes), keep)

        return reduce

    return bound(bind, static=(1,))


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:  # noqa: FBT001 - a Reduction
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _softmax(function: Compute) -> Operator:
    def bind(of: Bound) -> Compute:
        newest = of.opset >= 13  # noqa: PLR2004 - before, everything from the axis on counted as one
        axis = of.integer("axis", -1 if newest else 1)

        def softmax(x: Tensor) -> Tensor:
            if newest or axis in {-1, x.dim() - 1}:
                return cast("Tensor", function(x, axis))
            return cast("Tensor", function(x.flatten(axis), -1)).reshape(x.shape)

        return softmax

    return bound(bind)


def _largest(function: Compute) -> Operator:
    def bind(of: Bound) -> Compute:
        axis, keep = of.integer("axis", 0), bool(of.integer("keepdims", 1))
        if of.integer("select_last_index", 0):
            raise of.unsupported("the last of equals is not looked for")
        return lambda x: function(x, dim=axis, keepdim=keep)

    return bound(bind)


def _cumulative(of: Bound) -> Compute:
    if of.integer("exclusive", 0) or of.integer("reverse", 0):
        raise of.unsupported("sums that exclude, or run backward, are not known")
    return lambda x, axis: x.cumsum(axis)


def _lp_norm(of: Bound) -> Compute:
    axis, p = of.integer("axis", -1), of.integer("p", 2)
    return lambda x: x / torch.linalg.vector_norm(x, p, axis, keepdim=True)


OPERATORS: Mapping[str, Operator] = {
    "ArgMax": _largest(torch.argmax),
    "ArgMin": _largest(torch.argmin),
    "CumSum": bound(_cumulative, static=(1,)),
    "LogSoftmax": _softmax(functional.log_softmax),
    "LpNormalization": bound(_lp_norm),
    "ReduceL1": _reduced(lambda x, axes, keep: torch.linalg.vector_norm(x, 1, axes, keepdim=keep)),
    "ReduceL2": _reduced(lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keepdim=keep)),
    "ReduceLogSumExp": _reduced(torch.logsumexp),
    "ReduceMax": _reduced(torch.amax),
    "ReduceMean": _reduced(torch.mean),
    "ReduceMin": _reduced(torch.amin),
    "ReduceProd": _reduced(_product),
    "ReduceSum": _reduced(torch.sum),
    "ReduceSumSquare": _reduced(lambda x, axes, keep: x.square().sum(axes, keepdim=keep)),
    "Softmax": _softmax(functional.softmax),
}
