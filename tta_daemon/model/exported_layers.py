"""The calls of an exported program that become ordinary modules of torch: what methods look for in a network."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Table = Mapping[str, Any]


class Unreadable(ValueError):  # noqa: N818 - named for what the file is
    """The file is broken, or not a classifier of images, or holds what is not read here."""


class _BatchNorm(nn.BatchNorm2d):
    """Of values of any rank: the call does not say of which."""

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 - torch's name for it
        """Anything will do."""


_CONVOLUTIONS: Mapping[int, Callable[..., nn.Module]] = {3: nn.Conv1d, 4: nn.Conv2d}

WEIGHTS = ("weight", "bias", "running_mean", "running_var")
Tensors = Mapping[str, Tensor]


def _filled(module: nn.Module, tensors: Tensors) -> nn.Module:
    for name in ("weight", "bias"):
        if name in tensors:
            module.register_parameter(name, nn.Parameter(tensors[name].clone()))
    for name in ("running_mean", "running_var"):
        if name in tensors:
            module.register_buffer(name, tensors[name].clone())
    return module


def _convolution(tensors: Tensors, plain: Table) -> nn.Module | None:
    weight, groups = tensors["weight"], plain["groups"]
    kind = _CONVOLUTIONS.get(weight.dim())
    if kind is None or plain.get("transposed"):
        return None
    spots = weight.dim() - 2
    padding = plain["padding"] if isinstance(plain["padding"], str) else _wide(plain["padding"], spots)
    made = kind(
        weight.size(1) * groups, weight.size(0), tuple(weight.shape[2:]), _wide(plain["stride"], spots), padding,
        _wide(plain["dilation"], spots), groups, bias="bias" in tensors, device="meta",
    )  # fmt: skip
    return _filled(made, tensors)


def _wide(values: Any, count: int) -> tuple[int, ...]:  # noqa: ANN401 - a number or a list of them
    each = [values] if isinstance(values, int) else list(values)
    return tuple(each * count if len(each) == 1 else each)


def _linear(tensors: Tensors, _: Table) -> nn.Module | None:
    weight = tensors["weight"]
    made = nn.Linear(weight.size(1), weight.size(0), bias="bias" in tensors, device="meta")
    return _filled(made, tensors)


def _batch_norm(tensors: Tensors, plain: Table) -> nn.Module | None:
    if plain.get("training"):
        raise Unreadable("it normalizes by the batch: it was exported in training mode; call network.eval() before")
    if "running_mean" not in tensors:
        return None
    made = _BatchNorm(len(tensors["weight"]), plain["eps"], plain["momentum"], device="meta")
    made.num_batches_tracked = torch.zeros((), dtype=torch.int64)
    return _filled(made, tensors)


def _layer_norm(tensors: Tensors, plain: Table) -> nn.Module | None:
    shape = plain["normalized_shape"]
    return _filled(nn.LayerNorm(shape, plain["eps"], bias="bias" in tensors, device="meta"), tensors)


def _group_norm(tensors: Tensors, plain: Table) -> nn.Module | None:
    groups = plain["num_groups"] if "num_groups" in plain else plain["group"]
    return _filled(nn.GroupNorm(groups, len(tensors["weight"]), plain["eps"], device="meta"), tensors)


LAYERS: Mapping[str, Callable[[Tensors, Table], nn.Module | None]] = {
    "_native_batch_norm_legit_no_training": _batch_norm, "addmm": _linear, "batch_norm": _batch_norm,
    "conv1d": _convolution, "conv2d": _convolution, "convolution": _convolution, "group_norm": _group_norm,
    "layer_norm": _layer_norm, "linear": _linear, "native_group_norm": _group_norm, "native_layer_norm": _layer_norm,
}  # fmt: skip
