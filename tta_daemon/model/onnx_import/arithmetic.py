"""Operators that work element by element, and multiply matrices."""

import operator as python
from collections.abc import Mapping
from functools import reduce
from typing import Any

import torch
from onnx import TensorProto
from torch import Tensor
from torch.nn import functional

from tta_daemon.model.imported import Compute
from tta_daemon.model.onnx_import.operator import Bound, Operator, bound, plain

_KINDS: Mapping[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32, TensorProto.DOUBLE: torch.float32, TensorProto.FLOAT16: torch.float32,
    TensorProto.INT64: torch.int64, TensorProto.INT32: torch.int32, TensorProto.INT16: torch.int16,
    TensorProto.INT8: torch.int8, TensorProto.UINT8: torch.uint8, TensorProto.BOOL: torch.bool,
}  # fmt: skip
"""The type of a whole number; every other is that of the network."""


def _divide(a: Any, b: Any) -> Any:  # noqa: ANN401 - tensors or numbers
    whole = not any(isinstance(x, float) or (isinstance(x, Tensor) and x.is_floating_point()) for x in (a, b))
    return torch.div(a, b, rounding_mode="trunc") if whole else a / b


def _power(a: Tensor, b: Any) -> Tensor:  # noqa: ANN401 - a tensor or a number
    return torch.pow(a, b).to(a.dtype)


def _mod(of: Bound) -> Compute:
    return torch.fmod if of.integer("fmod", 0) else torch.remainder


def _cast(of: Bound) -> Compute:
    kind = _KINDS.get(of.integer("to", TensorProto.FLOAT))
    if kind is None:
        raise of.unsupported("this type is not known")
    return lambda x: _to(x, kind)


def _to(x: Tensor, kind: torch.dtype) -> Tensor:
    """As another type; floating point numbers stay of the network's own."""
    return x if kind.is_floating_point and x.is_floating_point() else x.to(kind)


def _clip(of: Bound) -> Compute:
    low, high = of.node.attributes.get("min"), of.node.attributes.get("max")

    def clip(x: Tensor, least: Any = low, most: Any = high) -> Tensor:  # noqa: ANN401 - numbers or None
        return x if least is None and most is None else x.clamp(least, most)

    return clip


def _gelu(of: Bound) -> Compute:
    form = of.text("approximate", "none")
    return lambda x: functional.gelu(x, approximate=form)


def _hard_sigmoid(of: Bound) -> Compute:
    alpha, beta = of.number("alpha", 0.2), of.number("beta", 0.5)
    return lambda x: (alpha * x + beta).clamp(0.0, 1.0)


def _swish(of: Bound) -> Compute:
    alpha = of.number("alpha", 1.0)
    return functional.silu if alpha == 1.0 else lambda x: x * torch.sigmoid(alpha * x)


def _slope(function: Compute, name: str, default: float) -> Operator:
    def bind(of: Bound) -> Compute:
        value = of.number(name, default)
        return lambda x: function(x, value)

    return bound(bind)


def _folded(function: Compute) -> Operator:
    return plain(lambda *given: reduce(function, given))


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope, x)


def _gemm(of: Bound) -> Compute:
    alpha, beta = of.number("alpha", 1.0), of.number("beta", 1.0)
    turn_a, turn_b = of.integer("transA", 0), of.integer("transB", 0)

    def gemm(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        product = (a.T if turn_a else a) @ (b.T if turn_b else b)
        product = product if alpha == 1.0 else alpha * product
        return product if c is None else product + (c if beta == 1.0 else beta * c)

    return gemm


def _einsum(of: Bound) -> Compute:
    equation = of.text("equation", "")
    return lambda *given: torch.einsum(equation, *given)


def _infinite(of: Bound) -> Compute:
    if of.integer("detect_negative", 1) and of.integer("detect_positive", 1):
        return torch.isinf
    raise of.unsupported("one sign alone is not told apart")


_ELEMENTWISE: Mapping[str, Compute] = {
    "Abs": torch.abs, "Ceil": torch.ceil, "Cos": torch.cos, "Erf": torch.erf, "Exp": torch.exp, "Floor": torch.floor,
    "HardSwish": functional.hardswish, "IsNaN": torch.isnan, "Log": torch.log, "Mish": functional.mish,
    "Neg": torch.neg, "Not": torch.logical_not, "Reciprocal": torch.reciprocal, "Relu": functional.relu,
    "Round": torch.round, "Sigmoid": torch.sigmoid, "Sign": torch.sign, "Sin": torch.sin,
    "Softplus": functional.softplus, "Softsign": functional.softsign, "Sqrt": torch.sqrt, "Tanh": torch.tanh,
    "And": torch.logical_and, "Or": torch.logical_or, "Xor": torch.logical_xor, "PRelu": _prelu,
    "MatMul": torch.matmul, "Where": torch.where, "Identity": lambda x: x, "Dropout": lambda x, *_: x,
    "CastLike": lambda x, like: _to(x, like.dtype),
}  # fmt: skip

_PAIRS: Mapping[str, Compute] = {
    "Add": python.add, "Sub": python.sub, "Mul": python.mul, "Div": _divide, "Pow": _power, "Equal": python.eq,
    "Greater": python.gt, "GreaterOrEqual": python.ge, "Less": python.lt, "LessOrEqual": python.le,
}  # fmt: skip

OPERATORS: Mapping[str, Operator] = {
    **{name: plain(function) for name, function in _ELEMENTWISE.items()},
    **{name: plain(function, scalars=(1,) if name == "Pow" else (0, 1)) for name, function in _PAIRS.items()},
    "Cast": bound(_cast),
    "Celu": _slope(functional.celu, "alpha", 1.0),
    "Clip": bound(_clip, static=(1, 2)),
    "Einsum": bound(_einsum),
    "Elu": _slope(functional.elu, "alpha", 1.0),
    "Gelu": bound(_gelu),
    "Gemm": bound(_gemm),
    "HardSigmoid": bound(_hard_sigmoid),
    "IsInf": bound(_infinite),
    "LeakyRelu": _slope(functional.leaky_relu, "alpha", 0.01),
    "Max": _folded(torch.maximum),
    "Mean": plain(lambda *given: reduce(python.add, given) / len(given)),
    "Min": _folded(torch.minimum),
    "Mod": bound(_mod),
    "Sum": _folded(python.add),
    "Swish": bound(_swish),
}
