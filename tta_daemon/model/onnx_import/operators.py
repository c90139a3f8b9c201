"""The operator table: what each ONNX operator computes in torch."""

from collections.abc import Mapping
from types import MappingProxyType

from tta_daemon.model.onnx_import import arithmetic, layers, reductions, shapes
from tta_daemon.model.onnx_import.operator import Operator

OPERATORS: Mapping[str, Operator] = MappingProxyType(
    {
        **arithmetic.OPERATORS,
        **layers.OPERATORS,
        **reductions.OPERATORS,
        **shapes.OPERATORS,
    }
)
