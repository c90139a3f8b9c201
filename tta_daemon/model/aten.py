"""The operators of PyTorch's own that an exported program may call. What is not named here is not called."""

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch

from tta_daemon.model.imported import Compute

_ATEN = frozenset({
    "_native_batch_norm_legit_no_training", "_softmax", "_log_softmax", "_to_copy", "_unsafe_view", "abs",
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d", "adaptive_max_pool2d", "add", "add_",
    "addmm", "alias", "amax", "amin", "any", "arange", "argmax", "as_strided", "avg_pool1d", "avg_pool2d", "baddbmm",
    "batch_norm", "bitwise_and", "bitwise_not", "bitwise_or", "bmm", "cat", "celu", "channel_shuffle", "chunk",
    "clamp", "clamp_", "clamp_min", "clone", "constant_pad_nd", "contiguous", "conv1d", "conv2d", "convolution", "cos",
    "cumsum", "detach", "detach_", "div", "div_", "dropout", "dropout_", "einsum", "elu", "elu_", "eq", "erf", "exp",
    "expand", "expand_as", "eye", "feature_dropout", "flatten", "flip", "floor", "floor_divide", "fmod", "full",
    "full_like", "gather", "ge", "gelu", "gelu_", "group_norm", "gt", "hardsigmoid", "hardsigmoid_", "hardswish",
    "hardswish_", "hardtanh", "hardtanh_", "index", "index_put", "index_select", "instance_norm", "layer_norm", "le",
    "leaky_relu", "leaky_relu_", "linalg_vector_norm", "linear", "log", "log_softmax", "logical_and", "logical_not",
    "logical_or", "lt", "masked_fill", "masked_fill_", "matmul", "max", "max_pool1d", "max_pool2d",
    "max_pool2d_with_indices", "maximum", "mean", "min", "minimum", "mish", "mm", "movedim", "mul", "mul_",
    "native_group_norm", "native_layer_norm", "ne", "neg", "new_ones", "new_zeros", "norm", "ones", "ones_like", "pad",
    "permute", "pixel_shuffle", "pixel_unshuffle", "pow", "prelu", "prod", "reciprocal", "reflection_pad2d", "relu",
    "relu6", "relu_", "remainder", "repeat", "repeat_interleave", "replication_pad2d", "reshape", "rms_norm", "roll",
    "round", "rsqrt", "rsub", "scalar_tensor", "scaled_dot_product_attention", "select", "sigmoid", "sigmoid_", "silu",
    "silu_", "sin", "slice", "softmax", "softplus", "split", "split_with_sizes", "sqrt", "square", "squeeze", "stack",
    "std", "sub", "sub_", "sum", "swapaxes", "t", "tanh", "tanh_", "tile", "to", "transpose", "tril", "triu",
    "type_as", "unbind", "unflatten", "unsqueeze", "upsample_bicubic2d", "upsample_bilinear2d", "upsample_nearest2d",
    "var", "var_mean", "view", "view_as", "where", "zeros", "zeros_like",
})  # fmt: skip

_OF_SIZES: Mapping[str, Callable[..., Any]] = {
    "torch.ops.aten.sym_size.int": lambda x, dim: x.size(dim),
    "torch.ops.aten.sym_numel.default": lambda x: x.numel(),
    **{f"_operator.{name}": getattr(operator, name) for name in ("add", "sub", "mul", "floordiv", "mod", "neg")},
}

SKIPPED = ("torch.ops.aten._assert", "torch.ops.aten.sym_constrain", "torch._check")
"""What these begin with only makes sure of something."""


def named(target: str) -> tuple[Compute, tuple[tuple[str, Any], ...]] | None:
    """The operator of this name, and its arguments with their defaults; None where it is not known.

    >>> named("torch.ops.aten.relu.default")[1]
    (('self', None),)
    >>> named("torch.ops.aten.from_file.default") or named("torch.os.system")
    """
    if target in _OF_SIZES:
        return _OF_SIZES[target], ()
    space, _, rest = target.partition("torch.ops.aten.")
    name, _, overload = rest.partition(".")
    if space or name not in _ATEN or not overload.isidentifier() or overload.startswith("_"):
        return None
    packet = getattr(torch.ops.aten, name)
    if overload not in packet.overloads():
        return None
    made = getattr(packet, overload)
    return made, tuple((argument.name, argument.default_value) for argument in made._schema.arguments)  # noqa: SLF001 - its only way to say
