"""An ONNX graph as plain values: nodes in an order in which they can be computed, and the constants they use."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter

from torch import Tensor

Attribute = int | float | str | Tensor | tuple[int, ...] | tuple[float, ...] | tuple[str, ...]


class Unreadable(ValueError):  # noqa: N818 - named for what the file is
    """The file is broken, or not a classifier of images."""


class Unsupported(Unreadable):
    """The file may be sound, but holds an operator that is not known here."""


@dataclass(frozen=True, slots=True)
class Node:
    """One operator of the graph. An absent optional input is an empty name."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)

    def __str__(self) -> str:
        """What errors call it."""
        return f"{self.op} {self.name!r}"

    def input(self, position: int) -> str:
        """The name of an input; empty where it is absent."""
        return self.inputs[position] if position < len(self.inputs) else ""


@dataclass(frozen=True, slots=True)
class Graph:
    """A classifier: N x 3 x H x W in, N x C out.

    Attributes:
        nodes: in an order in which they can be computed; only those that the output needs.
        constants: tensors by name.
        input: the name of the images.
        shape: N, 3, H and W as the file declares them; None where it leaves one open.
        output: the name of the answers.
        opset: version of the operators.
        metadata: what the file says of itself.
    """

    nodes: tuple[Node, ...]
    constants: Mapping[str, Tensor]
    input: str
    shape: tuple[int | None, ...]
    output: str
    opset: int
    metadata: Mapping[str, str] = field(default_factory=dict)


def ordered(nodes: Iterable[Node], known: Iterable[str], output: str) -> tuple[Node, ...]:
    """The nodes that ``output`` needs, each after those that it needs itself; ``known`` names need none.

    Raises:
        Unreadable: a value has no origin, or two, or needs itself.
    """
    given, producers = set(known), dict[str, int]()
    listed = list(nodes)
    for index, node in enumerate(listed):
        for name in filter(None, node.outputs):
            if name in producers or name in given:
                raise Unreadable(f"two nodes make {name!r}, one of them {node}")
            producers[name] = index
    needs: dict[int, set[int]] = {}
    waiting = [_origin(output, producers, "the graph's output")] if output not in given else []
    while waiting:
        index = waiting.pop()
        if index not in needs:
            wanted = [name for name in listed[index].inputs if name and name not in given]
            needs[index] = {_origin(name, producers, str(listed[index])) for name in wanted}
            waiting.extend(needs[index])
    try:
        order = sorted(TopologicalSorter(needs).static_order()) if _in_order(needs) else _sorted(needs)
    except CycleError as fault:
        around = ", ".join(str(listed[index]) for index in fault.args[1][:4])
        raise Unreadable(f"the graph runs in a circle: {around}") from fault
    return tuple(listed[index] for index in order)


def consumers(nodes: Sequence[Node]) -> dict[str, list[Node]]:
    """Who uses each value."""
    found: dict[str, list[Node]] = {}
    for node in nodes:
        for name in filter(None, node.inputs):
            found.setdefault(name, []).append(node)
    return found


def _origin(name: str, producers: Mapping[str, int], who: str) -> int:
    if name not in producers:
        raise Unreadable(f"{who} needs {name!r}, which nothing makes")
    return producers[name]


def _in_order(needs: Mapping[int, set[int]]) -> bool:
    return all(before < index for index, wanted in needs.items() for before in wanted)


def _sorted(needs: Mapping[int, set[int]]) -> list[int]:
    return list(TopologicalSorter(needs).static_order())
