"""The nodes that become ordinary modules of torch: what methods look for in a network."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from tta_daemon.model.onnx_import.layers import even, margins
from tta_daemon.model.onnx_import.operator import Bound

Module = TypeVar("Module", bound=nn.Module)

_CONVOLUTIONS: Mapping[int, Callable[..., nn.Module]] = {4: nn.Conv2d, 3: nn.Conv1d}
_BATCH_NORMS: Mapping[int, type[nn.BatchNorm1d | nn.BatchNorm2d]] = {
    4: nn.BatchNorm2d,
    3: nn.BatchNorm1d,
    2: nn.BatchNorm1d,
}


@dataclass(frozen=True, slots=True)
class Layer:
    """A module, and what its input must be padded with before, where the module cannot do that itself."""

    module: nn.Module
    margins: tuple[int, ...] = ()


def layer_of(of: Bound, tensors: Sequence[Tensor | None], shape: Sequence[int]) -> Layer | None:
    """The module that a node is, where its weights are constants; else None.

    Args:
        of: the node.
        tensors: its inputs after the first, None where they are no constants.
        shape: of its first input.
    """
    held = [tensor for tensor, name in zip(tensors, of.node.inputs[1:], strict=True) if name]
    weights = [tensor for tensor in held if tensor is not None]
    if not held or len(weights) < len(held):
        return None
    if of.node.op == "Conv":
        return _convolution(of, weights, shape)
    make = _MAKERS.get(of.node.op)
    module = make(of, weights, len(shape)) if make is not None else None
    return Layer(module) if module is not None else None


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A linear layer of these very numbers, out x in."""
    made = nn.Linear(weight.size(1), weight.size(0), bias=bias is not None, device="meta")
    return _filled(made, weight=weight, bias=bias)


def _convolution(of: Bound, tensors: list[Tensor], shape: Sequence[int]) -> Layer | None:
    weight, bias = tensors[0], tensors[1] if len(tensors) > 1 else None
    kind, spots = _CONVOLUTIONS.get(len(shape)), len(shape) - 2
    if kind is None:
        return None
    sides = margins(of, shape[2:], weight.shape[2:])
    padding, groups = even(sides), of.integer("group", 1)
    strides, dilations = of.integers("strides") or (1,) * spots, of.integers("dilations") or (1,) * spots
    made = kind(
        weight.size(1) * groups, weight.size(0), tuple(weight.shape[2:]), strides, padding or (0,) * spots, dilations,
        groups, bias=bias is not None, device="meta",
    )  # fmt: skip
    return Layer(_filled(made, weight=weight, bias=bias), () if padding is not None else tuple(sides))


def _batch_norm(of: Bound, tensors: list[Tensor], rank: int) -> nn.Module | None:
    kind = _BATCH_NORMS.get(rank)
    if kind is None or of.integer("training_mode", 0):
        return None
    weight, bias, mean, var = tensors
    momentum = 1.0 - of.number("momentum", 0.9)
    made = kind(len(weight), of.number("epsilon", 1e-5), momentum, device="meta")
    made = _filled(made, weight=weight, bias=bias)
    made.running_mean, made.running_var = mean.clone(), var.clone()
    made.num_batches_tracked = torch.zeros((), dtype=torch.int64)
    return made


def _gemm(of: Bound, tensors: list[Tensor], rank: int) -> nn.Module | None:
    weight, bias = tensors[0], tensors[1] if len(tensors) > 1 else None
    if of.integer("transA", 0) or weight.dim() != 2 or rank != 2:  # noqa: PLR2004 - matrices
        return None
    weight = weight if of.integer("transB", 0) else weight.T
    if bias is not None:
        bias = of.number("beta", 1.0) * bias.reshape(-1)
        if bias.numel() != weight.size(0):
            return None
    return linear(of.number("alpha", 1.0) * weight, bias)


def _matrix(_: Bound, tensors: list[Tensor], rank: int) -> nn.Module | None:
    return linear(tensors[0].T, None) if tensors[0].dim() == 2 and rank > 1 else None  # noqa: PLR2004 - a matrix


def _layer_norm(of: Bound, tensors: list[Tensor], rank: int) -> nn.Module | None:
    weight, bias = tensors[0], tensors[1] if len(tensors) > 1 else None
    if len(of.node.outputs) > 1 or weight.dim() != rank - of.integer("axis", -1) % rank:
        return None
    made = nn.LayerNorm(tuple(weight.shape), of.number("epsilon", 1e-5), bias=bias is not None, device="meta")
    return _filled(made, weight=weight, bias=bias)


def _group_norm(of: Bound, tensors: list[Tensor], _: int) -> nn.Module | None:
    weight, bias = tensors
    groups = of.integer("num_groups", 1)
    if len(weight) == groups:  # before opset 21 that is one number a group, and how many channels is not known
        return None
    return _filled(
        nn.GroupNorm(groups, len(weight), of.number("epsilon", 1e-5), device="meta"), weight=weight, bias=bias
    )


def _instance_norm(of: Bound, tensors: list[Tensor], rank: int) -> nn.Module | None:
    if rank != 4:  # noqa: PLR2004 - N x C x H x W
        return None
    weight, bias = tensors
    made = nn.InstanceNorm2d(len(weight), of.number("epsilon", 1e-5), affine=True, device="meta")
    return _filled(made, weight=weight, bias=bias)


def _filled(module: Module, **tensors: Tensor | None) -> Module:
    """The module with these numbers as its parameters; it owns them."""
    for name, tensor in tensors.items():
        if tensor is not None:
            module.register_parameter(name, nn.Parameter(tensor.detach().clone().contiguous()))
    return module


_MAKERS: Mapping[str, Callable[[Bound, list[Tensor], int], nn.Module | None]] = {
    "BatchNormalization": _batch_norm, "Gemm": _gemm, "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm, "LayerNormalization": _layer_norm, "MatMul": _matrix,
}  # fmt: skip
