"""From a folded graph to a network: layers under the names that the file gives them, and steps between them."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from tta_daemon.model.imported import Compute, Count, ImportedNetwork, Made, Operand, Plain, Step
from tta_daemon.model.onnx_import.fold import Folded, widened_concat
from tta_daemon.model.onnx_import.graph import Node, consumers
from tta_daemon.model.onnx_import.modules import layer_of, linear
from tta_daemon.model.onnx_import.operator import Bound
from tta_daemon.model.onnx_import.operators import OPERATORS


def build(folded: Folded) -> ImportedNetwork:
    """The network of a graph; a closing Softmax is left out, for methods want logits."""
    graph = folded.graph
    nodes = list(graph.nodes)
    output = graph.output
    if nodes and nodes[-1].op == "Softmax" and nodes[-1].outputs[0] == output:
        output = nodes.pop().inputs[0]
    return _Building(folded, nodes, output).network()


class _Building:
    def __init__(self, folded: Folded, nodes: Sequence[Node], output: str) -> None:
        self._folded, self._nodes, self._output = folded, nodes, output
        self._constants, self._opset = folded.graph.constants, folded.graph.opset
        self._users = consumers(nodes)
        self._network = ImportedNetwork(folded.graph.input, output)
        self._held: dict[str, Operand] = {}
        self._merged: set[int] = set()

    def network(self) -> ImportedNetwork:
        steps = [step for node in self._nodes if id(node) not in self._merged for step in self._steps(node)]
        self._network.take(steps)
        return self._network

    def _steps(self, node: Node) -> Iterator[Step]:
        of, shape = Bound(node, self._opset), self._folded.shapes.get(node.input(0), ())
        tensors = [self._constants.get(name) for name in node.inputs[1:]]
        layer = layer_of(of, tensors, shape) if node.input(0) not in self._constants else None
        if layer is None:
            yield Step(node.name, self._compute(of), tuple(self._operands(node)), node.outputs)
            return
        module, outputs, given = layer.module, node.outputs[:1], self._operand(node.input(0))
        if node.op == "MatMul" and isinstance(module, nn.Linear):
            module, outputs = self._with_bias(node, module)
        if layer.margins:
            margin = f"{node.outputs[0]}/margin"
            yield Step(node.name, functional.pad, (given, Plain(layer.margins)), (margin,))
            given = Made(margin)
        yield Step(node.name, self._place_layer(node, module), (given,), outputs)

    def _with_bias(self, node: Node, layer: nn.Linear) -> tuple[nn.Linear, tuple[str, ...]]:
        """The layer with the bias that only one Add after it brings."""
        users = self._users.get(node.outputs[0], [])
        if len(users) != 1 or users[0].op != "Add" or node.outputs[0] == self._output:
            return layer, node.outputs
        add = users[0]
        bias = self._constants.get(add.inputs[1] if add.inputs[0] == node.outputs[0] else add.inputs[0])
        if bias is None or bias.shape != (layer.out_features,):
            return layer, node.outputs
        self._merged.add(id(add))
        return linear(layer.weight, bias), add.outputs

    def _place_layer(self, node: Node, module: nn.Module) -> str:
        """Put a layer into the network and give its name. Equal weights are written once; every layer has its own."""
        return self._network.put_layer(_layer_name(node), module)

    def _compute(self, of: Bound) -> Compute:
        node = of.node
        if node.op == "Reshape":
            return lambda x, shape: x.reshape(shape)
        if node.op == "Concat" and self._folded.fixed == 1:
            return widened_concat(of.integer("axis", 0) % len(self._folded.shapes[node.outputs[0]]))
        return OPERATORS[node.op].bind(of)

    def _operands(self, node: Node) -> Iterator[Operand]:
        operator = OPERATORS[node.op]
        for position, name in enumerate(node.inputs):
            tensor = self._constants.get(name)
            if node.op == "Reshape" and position == 1:
                yield self._folded.reshaped[node.outputs[0]]
            elif name in self._folded.growing:
                growing = self._folded.growing[name]
                yield growing if position in operator.static else Count(growing)
            elif tensor is not None and position in operator.static:
                yield Plain(tensor.tolist())
            elif tensor is not None and position in operator.scalars and not tensor.dim():
                yield Plain(tensor.item())
            else:
                yield self._operand(name)

    def _operand(self, name: str) -> Operand:
        if not name:
            return Plain(None)
        if name not in self._constants:
            return Made(name)
        if name not in self._held:
            tensor = self._constants[name]
            self._held[name] = self._network.hold(name, tensor, learns=learnable(tensor))
        return self._held[name]


def learnable(tensor: Tensor) -> bool:
    """Whether a constant is a weight: finite numbers of more than two values. A mask has two, a scale is one."""
    if not tensor.is_floating_point() or tensor.numel() < 3 or not bool(torch.isfinite(tensor).all()):  # noqa: PLR2004 - as said
        return False
    return len(torch.unique(tensor)) > 2  # noqa: PLR2004 - as said


def _layer_name(node: Node) -> str:
    """The name of the layer whose weight a node uses, where its name still tells; else what the node is called."""
    weight = node.input(1)
    if weight.endswith(".weight"):
        return weight.removesuffix(".weight")
    return ".".join(part for part in node.name.split("/") if part) or node.op
