"""From the bytes of an .onnx file to a graph, believing nothing that they say: no declared size, no path, no order."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto
from onnx.inliner import inline_local_functions
from torch import Tensor

from tta_daemon.model.onnx_import.graph import Attribute, Graph, Node, Unreadable, Unsupported, ordered

LARGEST_FILE = (1 << 31) - 1
"""Bytes that a message of protobuf can have; larger models keep their tensors in files beside it."""

MOST_NODES, MOST_FUNCTIONS = 100_000, 1000
OLDEST_OPSET = 11

_TYPES: Mapping[int, "np.dtype[Any]"] = {
    TensorProto.FLOAT: np.dtype("<f4"), TensorProto.DOUBLE: np.dtype("<f8"), TensorProto.FLOAT16: np.dtype("<f2"),
    TensorProto.INT64: np.dtype("<i8"), TensorProto.INT32: np.dtype("<i4"), TensorProto.INT16: np.dtype("<i2"),
    TensorProto.INT8: np.dtype("i1"), TensorProto.UINT8: np.dtype("u1"), TensorProto.BOOL: np.dtype("?"),
}  # fmt: skip
_TYPED: Mapping[int, str] = {
    TensorProto.FLOAT: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.INT64: "int64_data",
}
_FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)


def parse(path: Path) -> ModelProto:
    """The file's message; tensors that lie in other files stay there.

    Raises:
        OSError: the file cannot be read.
        Unreadable: it is no ONNX file, or is cut short.
    """
    if path.stat().st_size > LARGEST_FILE:
        raise Unreadable("it is larger than 2 GiB, which no ONNX file can be; keep its tensors in a file beside it")
    model = ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except (DecodeError, ValueError) as fault:
        raise Unreadable(f"it is no ONNX file, or is cut short: {fault}") from fault
    if not model.graph.node or not model.graph.output:
        raise Unreadable("it is no ONNX file, or is empty: it holds no operators")
    return model


def graph_of(model: ModelProto, folder: Path) -> Graph:
    """The classifier in a message whose external tensors lie in ``folder``.

    Raises:
        Unreadable: it is broken, or no classifier of images.
        Unsupported: it is of another time, or has parts that are not read here.
    """
    opset = _opset(model)
    graph = _inlined(model).graph
    if len(graph.node) > MOST_NODES:
        raise Unreadable(f"it has {len(graph.node)} nodes, more than {MOST_NODES}")
    constants = {tensor.name: tensor_of(tensor, folder) for tensor in graph.initializer}
    if graph.sparse_initializer:
        raise Unsupported("sparse tensors are not read")
    name, shape = _images(graph, constants)
    output = _answers(graph)
    nodes = ordered(_nodes(graph, folder), {name, *constants}, output)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return Graph(nodes, constants, name, shape, output, opset, metadata)


def tensor_of(proto: TensorProto, folder: Path) -> Tensor:
    """A tensor, whose declared size is compared with what is there before any memory is taken.

    Raises:
        Unreadable: it is not what it says, or lies outside of ``folder``.
        Unsupported: its type is not read.
    """
    if proto.data_type not in _TYPES:
        raise Unsupported(f"tensor {proto.name!r} is of type {_type_name(proto.data_type)}, which is not read")
    if any(size < 0 for size in proto.dims):
        raise Unreadable(f"tensor {proto.name!r} has a negative size {list(proto.dims)}")
    count, kind = math.prod(proto.dims), _TYPES[proto.data_type]
    if proto.data_location == TensorProto.EXTERNAL:
        raw = _outside(proto, folder, count * kind.itemsize)
    elif proto.HasField("raw_data"):
        raw = proto.raw_data
    else:
        return _typed(proto, count, kind)
    if len(raw) != count * kind.itemsize:
        message = f"tensor {proto.name!r} of {list(proto.dims)} needs {count * kind.itemsize} bytes and has {len(raw)}"
        raise Unreadable(message)
    return torch.from_numpy(np.frombuffer(raw, kind).reshape(tuple(proto.dims)).copy())


def _typed(proto: TensorProto, count: int, kind: "np.dtype[Any]") -> Tensor:
    values = getattr(proto, _TYPED.get(proto.data_type, "int32_data"))
    if len(values) != count:
        raise Unreadable(f"tensor {proto.name!r} of {list(proto.dims)} needs {count} numbers and has {len(values)}")
    array = np.array(values, np.uint16).view(kind) if kind == np.float16 else np.array(values).astype(kind)
    return torch.from_numpy(array.reshape(tuple(proto.dims)))


def _outside(proto: TensorProto, folder: Path, size: int) -> bytes:
    """Bytes of a tensor that lies in a file beside the model. The path is the file's word, so it is looked at hard."""
    said = {entry.key: entry.value for entry in proto.external_data}
    location = said.get("location", "")
    path = (folder / location).resolve()
    if not location or Path(location).is_absolute() or not path.is_relative_to(folder.resolve()):
        raise Unreadable(f"tensor {proto.name!r} lies in {location!r}, outside of the model's folder")
    if not path.is_file():
        raise Unreadable(f"tensor {proto.name!r} lies in {location!r}, which is no file")
    try:
        offset, length = int(said.get("offset", 0)), int(said.get("length", size))
    except ValueError as fault:
        raise Unreadable(f"tensor {proto.name!r} lies at no number: {fault}") from fault
    if offset < 0 or length != size or offset + length > path.stat().st_size:
        message = f"tensor {proto.name!r} needs {size} bytes at {offset} of {location!r}, and they are not there"
        raise Unreadable(message)
    with path.open("rb") as file:
        file.seek(offset)
        return bytes(file.read(length))


def _opset(model: ModelProto) -> int:
    versions = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    version = int(versions.get("ai.onnx", 0))
    if version < OLDEST_OPSET:
        raise Unsupported(f"it is of opset {version}; {OLDEST_OPSET} and later are read: export it anew")
    return version


def _inlined(model: ModelProto) -> ModelProto:
    """The model with the bodies of its own functions in the place of their calls."""
    if not model.functions:
        return model
    sizes = _sizes(model)
    if sum(sizes.get(node.op_type, 1) for node in model.graph.node) > MOST_NODES:
        raise Unreadable(f"its functions make more than {MOST_NODES} nodes")
    try:
        return inline_local_functions(model)
    except Exception as fault:
        raise Unreadable(f"its functions cannot be put in their places: {fault}") from fault


def _sizes(model: ModelProto) -> dict[str, int]:
    """How many nodes a call of each function becomes, found before that many are made."""
    if len(model.functions) > MOST_FUNCTIONS:
        raise Unreadable(f"it has {len(model.functions)} functions, more than {MOST_FUNCTIONS}")
    bodies = {function.name: [node.op_type for node in function.node] for function in model.functions}
    sizes: dict[str, int] = {}
    for _ in range(len(bodies)):
        for name, body in bodies.items():
            if name not in sizes and all(op in sizes or op not in bodies for op in body):
                sizes[name] = min(MOST_NODES + 1, sum(sizes.get(op, 1) for op in body))
    if len(sizes) < len(bodies):
        raise Unreadable("its functions call themselves")
    return sizes


def _images(graph: GraphProto, constants: Iterable[str]) -> tuple[str, tuple[int | None, ...]]:
    held = set(constants)
    inputs = [value for value in graph.input if value.name not in held]
    if len(inputs) != 1:
        names = ", ".join(repr(value.name) for value in inputs[:5])
        raise Unreadable(f"it takes {len(inputs)} inputs ({names}), not one: images")
    tensor = inputs[0].type.tensor_type
    dims = tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in tensor.shape.dim)
    if len(dims) != 4 or dims[1] not in {3, None}:  # noqa: PLR2004 - N x 3 x H x W
        raise Unreadable(f"its input {inputs[0].name!r} is {_shown(dims)}, not N x 3 x H x W")
    if tensor.elem_type not in _FLOATS:
        raise Unreadable(f"its input {inputs[0].name!r} is {_type_name(tensor.elem_type)}, not float")
    return inputs[0].name, dims


def _answers(graph: GraphProto) -> str:
    """The one output, or of several the one that is called logits."""
    names = [str(value.name) for value in graph.output]
    called = [name for name in names if name == "logits"]
    if len(names) > 1 and not called:
        raise Unreadable(f"it has the outputs {', '.join(names[:6])}; cut it down to one, or call one 'logits'")
    return called[0] if called else names[0]


def _nodes(graph: GraphProto, folder: Path) -> Iterator[Node]:
    for index, proto in enumerate(graph.node):
        domain = "" if proto.domain in {"", "ai.onnx"} else f"{proto.domain}."
        name = proto.name or f"{proto.op_type}_{index}"
        attributes = {a.name: _attribute(a, folder, f"{domain}{proto.op_type} {name!r}") for a in proto.attribute}
        yield Node(name, f"{domain}{proto.op_type}", tuple(proto.input), tuple(proto.output), attributes)


def _attribute(proto: AttributeProto, folder: Path, where: str) -> Attribute:
    kinds: Mapping[int, Callable[[], Attribute]] = {
        AttributeProto.INT: lambda: int(proto.i),
        AttributeProto.FLOAT: lambda: float(proto.f),
        AttributeProto.STRING: lambda: proto.s.decode("utf-8", "replace"),
        AttributeProto.TENSOR: lambda: tensor_of(proto.t, folder),
        AttributeProto.INTS: lambda: tuple(int(value) for value in proto.ints),
        AttributeProto.FLOATS: lambda: tuple(float(value) for value in proto.floats),
        AttributeProto.STRINGS: lambda: tuple(value.decode("utf-8", "replace") for value in proto.strings),
    }
    if proto.type not in kinds:
        raise Unsupported(f"{where} has an attribute {proto.name!r} that is not read: a graph, or a rare type")
    return kinds[proto.type]()


def _shown(dims: Iterable[int | None]) -> str:
    return " x ".join("?" if size is None else str(size) for size in dims) or "no tensor"


def _type_name(kind: int) -> str:
    return next((str(name) for name, number in TensorProto.DataType.items() if number == kind), str(kind))
