"""What of a graph never changes, and what changes with the number of images alone: found by running it three times.

Exporters write shapes as chains of a dozen operators. Whatever comes out the same for two images as for three is a
constant; whole numbers that grow evenly with the number of images become a rule. No chain is left.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from tta_daemon.model.imported import Compute, Growing
from tta_daemon.model.onnx_import.graph import Graph, Node, Unreadable, Unsupported, consumers, ordered
from tta_daemon.model.onnx_import.operator import Bound, Operator
from tta_daemon.model.onnx_import.operators import OPERATORS

FEW, MORE, MOST = 2, 3, 5
"""Images of the three runs."""

MOST_NUMBERS = 1 << 28
"""Of one value, for so few images."""

REMEDY = "export it with a batch dimension that is dynamic"


@dataclass(frozen=True, slots=True)
class Folded:
    """A graph without what could be computed beforehand.

    Attributes:
        graph: what is left; its constants include what was folded.
        growing: values that follow the number of images.
        shapes: of every value, for `FEW` images.
        reshaped: the shapes of reshaped values, whatever the number of images is.
        fixed: the batch that the file was exported for, where it has only that one.
    """

    graph: Graph
    growing: Mapping[str, Growing]
    shapes: Mapping[str, tuple[int, ...]]
    reshaped: Mapping[str, Growing]
    fixed: int | None


@dataclass(slots=True)
class _Seen:
    """What a run showed: the shape of every value, and those values that come from shapes alone."""

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    values: dict[str, Tensor] = field(default_factory=dict)


def fold(graph: Graph, size: Sequence[int]) -> Folded:
    """Find what never changes, for images of this height and width.

    Raises:
        Unsupported: an operator, or a way of using it, is not known.
        Unreadable: the operators do not fit each other.
    """
    unknown = [node for node in graph.nodes if node.op not in OPERATORS]
    if unknown:
        kinds = sorted({node.op for node in unknown})
        raise Unsupported(f"operator {', '.join(kinds)} is not known; first at node {unknown[0].name!r}")
    plan = _Plan(graph, size)
    fixed = graph.shape[0]
    truth = plan.run(fixed, None).shapes if fixed is not None else None
    few, more, most = plan.run(FEW, truth), plan.run(MORE, truth), plan.run(MOST, truth)
    constants, growing = dict(plan.constants), dict[str, Growing]()
    for name, value in few.values.items():
        others = more.values[name], most.values[name]
        if any(value.shape != other.shape for other in others):
            continue
        if all(torch.equal(value, other) for other in others):
            constants[name] = value
        elif value.dim() <= 1 and not value.is_floating_point() and value.dtype != torch.bool:
            line = _line(value.reshape(-1).tolist(), others[0].reshape(-1).tolist(), single=not value.dim())
            if line.at(MOST) == others[1].tolist():
                growing[name] = line
    nodes = ordered(
        [node for node in graph.nodes if not all(o in constants or o in growing for o in node.outputs if o)],
        {graph.input, *constants, *growing},
        graph.output,
    )
    used = consumers(nodes)
    reshaped = {node.outputs[0] for node in nodes if node.op == "Reshape"}
    return Folded(
        replace(graph, nodes=nodes, constants={name: t for name, t in constants.items() if name in used}),
        {name: rule for name, rule in growing.items() if name in used},
        few.shapes,
        {name: _line(few.shapes[name], more.shapes[name]) for name in reshaped},
        fixed,
    )


def given(node: Node, operator: Operator, values: Mapping[str, Any], constant: Mapping[str, Tensor]) -> list[Any]:
    """A node's inputs as its operator wants them: tensors, plain numbers where those are wanted, None where absent."""
    found: list[Any] = []
    for position, name in enumerate(node.inputs):
        value = values[name] if name else None
        single = position in operator.scalars and name in constant and value is not None and not value.dim()
        if isinstance(value, Tensor) and (position in operator.static or single):
            value = value.tolist()
        found.append(value)
    return found


class _Plan:
    """A graph made ready to run: what is constant is computed once, what comes from shapes alone is known as such."""

    def __init__(self, graph: Graph, size: Sequence[int]) -> None:
        self._graph, self._size = graph, tuple(size)
        self.constants = {n: t.float() if t.is_floating_point() else t for n, t in graph.constants.items()}
        self._computes = {id(node): _bind(node, graph.opset) for node in graph.nodes}
        self._left: list[Node] = []
        self._of_shape: set[str] = set()
        for node in graph.nodes:
            if all(name in self.constants for name in node.inputs if name):
                self.constants.update(self._compute(node, self.constants))
                continue
            self._left.append(node)
            steady = all(name in self.constants or name in self._of_shape for name in node.inputs if name)
            if steady or node.op in {"Shape", "Size"}:
                self._of_shape.update(filter(None, node.outputs))
        self._last = {name: id(node) for node in self._left for name in node.inputs if name}

    @torch.no_grad()
    def run(self, images: int, truth: Mapping[str, tuple[int, ...]] | None) -> _Seen:
        """Run it on so many images. ``truth`` is what the shapes are for the one batch that the file was made for."""
        seen = _Seen()
        pictures = torch.rand((images, 3, *self._size), generator=torch.Generator().manual_seed(0))
        values: dict[str, Tensor] = {**self.constants, self._graph.input: pictures}
        seen.shapes[self._graph.input] = tuple(pictures.shape)
        for node in self._left:
            made = self._compute(node, values, images, truth)
            values.update(made)
            seen.shapes.update({name: tuple(value.shape) for name, value in made.items()})
            seen.values.update({name: value for name, value in made.items() if name in self._of_shape})
            for name in node.inputs:
                if self._last.get(name) == id(node) and name not in self._of_shape:
                    values.pop(name, None)
        return seen

    def _compute(
        self,
        node: Node,
        values: Mapping[str, Tensor],
        images: int = 0,
        truth: Mapping[str, tuple[int, ...]] | None = None,
    ) -> dict[str, Tensor]:
        operator, compute = OPERATORS[node.op], self._computes[id(node)]
        for position, name in enumerate(node.inputs):
            if position in operator.static and name and name not in self.constants and name not in self._of_shape:
                raise Unsupported(f"{node}: its input {name!r} follows from the images, not only from their size")
        try:
            operands = given(node, operator, values, self.constants if images else {})
            if truth is not None and self._graph.shape[0] is not None:
                compute, operands = _widened(node, compute, operands, truth, images / self._graph.shape[0])
            _size_up(node, compute, operands)
            made = compute(*operands)
        except Unreadable:
            raise
        except Exception as fault:
            words = str(fault).splitlines()[0][:200] if str(fault) else type(fault).__name__
            advice = f"; {REMEDY}" if images and images != self._graph.shape[0] else ""
            raise Unreadable(f"{node} does not fit what it is given: {words}{advice}") from fault
        several = made if isinstance(made, tuple) else (made,)
        return {name: value for name, value in zip(node.outputs, several, strict=False) if name}


def widened_concat(axis: int) -> Compute:
    """Put values together of which some were exported for one image, whatever the number of images is."""

    def concat(*parts: Tensor) -> Tensor:
        n = max(part.size(0) for part in parts) if axis else 1
        return torch.cat([part.expand(n, *part.shape[1:]) if part.size(0) == 1 < n else part for part in parts], axis)

    return concat


def _widened(
    node: Node, compute: Compute, operands: list[Any], truth: Mapping[str, tuple[int, ...]], times: float
) -> tuple[Compute, list[Any]]:
    """A node of a file with a fixed batch, as it would be for so many times as many images: the first axis grows."""
    grown = isinstance(operands[0], Tensor) and tuple(operands[0].shape) != truth.get(node.inputs[0])
    if node.op == "Reshape" and node.outputs[0] in truth and grown:
        shape = truth[node.outputs[0]]
        wanted = [round(shape[0] * times), *shape[1:]] if shape else []
        return lambda x, _: x.reshape(wanted), operands
    if node.op == "Concat":
        axis = int(node.attributes.get("axis", 0))  # type: ignore[arg-type]
        return widened_concat(axis % operands[0].dim()), operands
    return compute, operands


def _bind(node: Node, opset: int) -> Compute:
    try:
        return OPERATORS[node.op].bind(Bound(node, opset))
    except Unreadable:
        raise
    except (TypeError, ValueError, KeyError, RuntimeError) as fault:
        raise Unreadable(f"{node} has attributes that make no sense: {fault}") from fault


def _size_up(node: Node, compute: Compute, operands: Sequence[Any]) -> None:
    """Compute the sizes alone first, so that what would fill the memory is refused before it does."""
    with torch.device("meta"):
        made = compute(*(operand.to("meta") if isinstance(operand, Tensor) else operand for operand in operands))
    for value in made if isinstance(made, tuple) else (made,):
        if value.numel() > MOST_NUMBERS:
            raise Unreadable(f"{node} makes a value of {tuple(value.shape)}, more than fits: {MOST_NUMBERS} numbers")


def _line(few: Sequence[int], more: Sequence[int], *, single: bool = False) -> Growing:
    slope = tuple((b - a) // (MORE - FEW) for a, b in zip(few, more, strict=True))
    return Growing(tuple(int(a) - s * FEW for a, s in zip(few, slope, strict=True)), slope, single)
