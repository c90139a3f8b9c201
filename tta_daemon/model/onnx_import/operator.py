"""What an operator of the table is, and how it reads its node."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor

from tta_daemon.model.imported import Compute
from tta_daemon.model.onnx_import.graph import Node, Unsupported


@dataclass(frozen=True, slots=True)
class Operator:
    """One row of the table.

    Attributes:
        bind: reads a node's attributes, once, and gives what computes it.
        static: positions of inputs that are shapes, axes and the like: handed over as plain numbers, never as tensors.
        scalars: positions where a constant single number is handed over as one.
    """

    bind: Callable[["Bound"], Compute]
    static: frozenset[int] = frozenset()
    scalars: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Bound:
    """A node, and the version of the operators that it is of."""

    node: Node
    opset: int

    def integer(self, name: str, default: int) -> int:
        """An attribute that is a whole number."""
        return int(cast("int", self.node.attributes.get(name, default)))

    def number(self, name: str, default: float) -> float:
        """An attribute that is a number."""
        return float(cast("float", self.node.attributes.get(name, default)))

    def text(self, name: str, default: str) -> str:
        """An attribute that is a word."""
        return str(self.node.attributes.get(name, default))

    def integers(self, name: str) -> tuple[int, ...] | None:
        """An attribute that is a list of whole numbers; None where it is absent."""
        found = self.node.attributes.get(name)
        return None if found is None else tuple(cast("Sequence[int]", found))

    def tensor(self, name: str) -> Tensor | None:
        """An attribute that is a tensor; None where it is absent."""
        found = self.node.attributes.get(name)
        return found if isinstance(found, Tensor) else None

    def unsupported(self, what: str) -> Unsupported:
        """The error that names this node."""
        return Unsupported(f"{self.node}: {what}")


def plain(compute: Compute, *, static: Sequence[int] = (), scalars: Sequence[int] = ()) -> Operator:
    """An operator without attributes."""
    return Operator(lambda _: compute, frozenset(static), frozenset(scalars))


def bound(bind: Callable[[Bound], Compute], *, static: Sequence[int] = (), scalars: Sequence[int] = ()) -> Operator:
    """An operator with attributes."""
    return Operator(bind, frozenset(static), frozenset(scalars))
