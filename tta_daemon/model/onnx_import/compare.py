"""Whether an imported network answers as ONNX Runtime does with the same file; and if not, where they part."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnx import ModelProto, TensorProto, ValueInfoProto
from torch import Tensor

from tta_daemon.model.imported import ImportedNetwork
from tta_daemon.model.onnx_import.graph import Graph, Unreadable
from tta_daemon.model.onnx_import.read import tensor_of

TOLERANCE = 1e-3
"""Of the largest logit's size. What is merely rounded otherwise differs by 1e-5 at most."""

IMAGES = 4
_TYPES: Mapping[str, type] = {
    "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16,
}  # fmt: skip


class Original:
    """The file in ONNX Runtime, on the CPU.

    Tensors beside the file are handed over as we read them: ONNX Runtime never follows a path that the file names.

    Raises:
        Unreadable: ONNX Runtime refuses the file.
    """

    def __init__(self, model: ModelProto, folder: Path, *, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.log_severity_level = 4
        outside = [tensor for tensor in model.graph.initializer if tensor.data_location == TensorProto.EXTERNAL]
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(tensor_of(t, folder).numpy()) for t in outside]
        if outside:
            options.add_external_initializers([tensor.name for tensor in outside], values)
        try:
            content = model.SerializeToString()
            providers = ["CPUExecutionProvider"]
            self.session = onnxruntime.InferenceSession(content, options, providers=providers, enable_fallback=0)
        except Exception as fault:
            raise Unreadable(f"ONNX Runtime refuses it: {str(fault).splitlines()[0][:300]}") from fault
        self._input = self._images()
        self._kind = _TYPES[self._input.type]
        self.output = self._answers()

    @property
    def shape(self) -> tuple[object, ...]:
        """N, 3, H and W as ONNX Runtime knows them; names where the file leaves one open."""
        return tuple(self._input.shape)

    def _images(self) -> onnxruntime.NodeArg:
        inputs = self.session.get_inputs()
        if len(inputs) != 1 or inputs[0].type not in _TYPES or len(inputs[0].shape) != 4:  # noqa: PLR2004 - N x 3 x H x W
            names = ", ".join(f"{given.name} {given.type} {given.shape}" for given in inputs[:4])
            raise Unreadable(f"it takes {names or 'nothing'}, not one batch of images, N x 3 x H x W")
        return inputs[0]

    def _answers(self) -> str:
        names = [output.name for output in self.session.get_outputs()]
        return "logits" if "logits" in names else names[0]

    def __call__(self, images: Tensor, outputs: Sequence[str], at_once: int | None = None) -> dict[str, Tensor]:
        """The values of these names for normalized images, so many in a pass.

        Raises:
            Unreadable: ONNX Runtime fails.
        """
        parts = torch.split(images, at_once or max(1, len(images)))
        try:
            made = [self.session.run(list(outputs), {self._input.name: p.numpy().astype(self._kind)}) for p in parts]
        except Exception as fault:
            raise Unreadable(f"ONNX Runtime fails: {str(fault).splitlines()[0][:300]}") from fault
        columns = zip(*made, strict=True)
        return {n: torch.from_numpy(np.concatenate(column)) for n, column in zip(outputs, columns, strict=True)}


@torch.no_grad()
def compare(network: ImportedNetwork, graph: Graph, model: ModelProto, folder: Path, size: Sequence[int]) -> float:
    """The largest difference of the answers to a few images, as a share of the largest answer.

    Raises:
        Unreadable: it is more than `TOLERANCE`; the message names the node from which on they differ, and the worst.
    """
    original = Original(model, folder)
    at_once = graph.shape[0]
    images = torch.randn(IMAGES * (at_once or 1), 3, *size, generator=torch.Generator().manual_seed(0))
    theirs = original(images, [graph.output], at_once)[graph.output]
    ours = network(images)
    closing = graph.output != network.output
    apart = difference(ours.softmax(-1) if closing else ours, theirs)
    if not apart <= TOLERANCE:
        where = _parting(network, graph, model, folder, images)
        raise Unreadable(
            f"our reading of it answers otherwise than ONNX Runtime, by {apart:.1e} of the largest: {where}"
        )
    return apart


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference as a share of the largest number; infinite where the shapes differ."""
    if ours.shape != theirs.shape:
        return float("inf")
    size = float(theirs.abs().max()) if theirs.numel() else 0.0
    apart = float((ours.double() - theirs.double()).abs().max()) if theirs.numel() else 0.0
    return apart / size if size else apart


def _parting(network: ImportedNetwork, graph: Graph, model: ModelProto, folder: Path, images: Tensor) -> str:
    """The first step from which on the values differ, and the step where they differ most."""
    made = {node_output for node in graph.nodes for node_output in node.outputs if node_output}
    steps = [(step, step.outputs[0]) for step in network.steps if step.outputs[0] in made]
    exposed = ModelProto()
    exposed.CopyFrom(model)
    exposed.graph.output.extend(ValueInfoProto(name=name) for _, name in steps if name != graph.output)
    theirs = Original(exposed, folder)(images, [name for _, name in steps], graph.shape[0])
    values, apart = {network.given: images}, list[tuple[float, str]]()
    for step in network.steps:
        network.advance(step, values)
        name = step.outputs[0]
        if name in theirs and name in values:
            apart.append((difference(values[name], theirs[name]), step.node))
    first = next(((how, node) for how, node in apart if not how <= TOLERANCE), None)
    if first is None:
        return "no step of it can be blamed"
    worst = max(apart)
    return f"they part at node {first[1]!r} ({first[0]:.1e}), and are furthest apart at {worst[1]!r} ({worst[0]:.1e})"
