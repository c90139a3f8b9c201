"""An .onnx file as a deployed model: imported where we know its operators, else answered by ONNX Runtime alone."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import structlog
import torch
from onnx import ModelProto
from torch import Tensor, nn

from tta_daemon.control.sections import Model
from tta_daemon.errors import ConfigError
from tta_daemon.model.brought import Brought
from tta_daemon.model.onnx_import import Unreadable, Unsupported, network_of
from tta_daemon.model.onnx_import.compare import Original, compare
from tta_daemon.model.onnx_import.fold import MOST_NUMBERS
from tta_daemon.model.onnx_import.read import graph_of, parse
from tta_daemon.model.said import about, listed

SETTING = "model.artifact"

log = structlog.get_logger(__name__)


class BlackBox(nn.Module):
    """A file that only ONNX Runtime understands: it answers, and nobody can look inside or teach it."""

    opaque = True

    def __init__(self, original: Original, output: str, at_once: int | None, *, closing: bool) -> None:
        super().__init__()
        self._original, self._output, self._at_once, self._closing = original, output, at_once, closing

    def forward(self, images: Tensor) -> Tensor:
        """Logits, N x C; their logarithm where the file closes with a softmax."""
        given = images.detach().float().cpu()
        whole = given if not self._at_once else _filled_up(given, self._at_once)
        said = self._original(whole, [self._output], self._at_once)[self._output][: len(images)]
        return (said.clamp(min=1e-12).log() if self._closing else said).to(images)

    def __deepcopy__(self, _: object) -> "BlackBox":
        """Itself: it holds nothing that changes."""
        return self


def read(path: Path, model: Model) -> Brought:
    """The network in an .onnx file, compared with ONNX Runtime on a few images.

    Raises:
        ConfigError: the file is broken, no classifier of images, or answers otherwise than ONNX Runtime says it should.
    """
    try:
        proto = parse(path)
        said = {entry.key: entry.value for entry in proto.metadata_props}
        return _imported(path, model, proto, said)
    except Unsupported as fault:
        return _black_box(path, model, proto, said, str(fault))
    except Unreadable as fault:
        remedy = "export the model anew; docs/models.md says how"
        raise ConfigError(SETTING, f"{path}: {fault}", remedy) from fault
    except OSError as fault:
        raise ConfigError(SETTING, f"{path} cannot be read: {fault.strerror}", "may we read it?") from fault


def _imported(path: Path, model: Model, proto: ModelProto, said: Mapping[str, str]) -> Brought:
    graph = graph_of(proto, path.parent)
    size = _size(graph.shape, said, model)
    network = network_of(graph, size)
    apart = compare(network, graph, proto, path.parent, size)
    log.info("imported", file=path.name, steps=len(network.steps), opset=graph.opset, apart=f"{apart:.1e}")
    return Brought(network, path.stem, SETTING, size=size, **about(said, path))


def _black_box(path: Path, model: Model, proto: ModelProto, said: Mapping[str, str], why: str) -> Brought:
    """The file as it is, for methods that need answers only."""
    try:
        _bounded(proto)
        original = Original(proto, path.parent, threads=model.threads)
    except Unreadable as fault:
        remedy = "export the model anew; docs/models.md names the operators that are known"
        raise ConfigError(SETTING, f"{path}: {why}; and {fault}", remedy) from fault
    shape = tuple(d if isinstance(d, int) else None for d in original.shape)
    size = _size(shape, said, model)
    log.warning("only ONNX Runtime understands this file, so nothing can adapt in it", file=path.name, why=why)
    closing = any(n.op_type == "Softmax" and original.output in n.output for n in proto.graph.node)
    network = BlackBox(original, original.output, shape[0], closing=closing)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Brought(network, path.stem, SETTING, size=size, digest=digest, **about(said, path))


def _bounded(proto: ModelProto) -> None:
    """Look for values that would fill the memory, where their sizes can be told."""
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except Exception as fault:
        raise Unreadable(f"its shapes make no sense: {str(fault).splitlines()[0][:200]}") from fault
    for value in inferred.graph.value_info:
        numbers = math.prod(dim.dim_value for dim in value.type.tensor_type.shape.dim if dim.dim_value > 0)
        if numbers > MOST_NUMBERS:
            raise Unreadable(f"value {value.name!r} has {numbers} numbers, more than fit")


def _size(shape: Sequence[int | None], said: Mapping[str, str], model: Model) -> tuple[int, int]:
    """Height and width: as the graph declares them, else as the setting says, else as the file says of itself."""
    declared = (shape[2], shape[3])
    wanted = model.input_size
    if declared[0] is not None and declared[1] is not None:
        size = (declared[0], declared[1])
        if "input_size" in model.model_fields_set and wanted != size:
            message = f"{list(wanted)}, but the file takes images of {list(size)} and no others"
            raise ConfigError("model.input_size", message, "leave it out, or export the model with another size")
        return size
    named = listed(said, "input_size", 2)
    if named is not None and "input_size" not in model.model_fields_set:
        return int(named[0]), int(named[1])
    return wanted


def _filled_up(images: Tensor, at_once: int) -> Tensor:
    """The images, and the last of them as often as fills the last batch."""
    lacking = -len(images) % at_once
    return torch.cat([images, images[-1:].expand(lacking, *images.shape[1:])]) if lacking else images
