"""Layers that exporters wrote as several operators, put together again."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from tta_daemon.model.onnx_import.fold import Folded
from tta_daemon.model.onnx_import.graph import Attribute, Graph, Node, consumers, ordered

ROOT_2 = 2**0.5


def recognized(folded: Folded) -> Folded:
    """The same graph with LayerNorm, GroupNorm and GELU as one node each, wherever they can be told."""
    for pattern in (_layer_norm, _group_norm, _gelu):
        view = _View(folded)
        for node in folded.graph.nodes:
            if (found := pattern(view, node)) is not None:
                view.put(found)
        folded = replace(folded, graph=view.graph())
    return folded


@dataclass(frozen=True, slots=True)
class _Found:
    """A layer, and constants that it needs beside those of the graph."""

    node: Node
    constants: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class _Affine:
    """A multiplication and an addition of constants: the node that ends it, and what the constants are called."""

    end: Node
    names: tuple[str, str]


class _View:
    """A graph with ways to walk in it."""

    def __init__(self, folded: Folded) -> None:
        self._graph = folded.graph
        self.shapes, self._growing = folded.shapes, folded.growing
        self._constants = dict(folded.graph.constants)
        self._makers = {name: node for node in folded.graph.nodes for name in node.outputs if name}
        self._users = consumers(folded.graph.nodes)
        self._placed: dict[str, Node] = {}

    def maker(self, name: str, *ops: str) -> Node | None:
        """Who makes a value, if it is one of these operators."""
        node = self._makers.get(name)
        return node if node is not None and node.op in ops else None

    def user(self, name: str, *ops: str) -> Node | None:
        """The only one who uses a value, if it is one of these operators."""
        users = self._users.get(name, [])
        single = len({id(user) for user in users}) == 1 and name != self._graph.output
        return users[0] if single and users[0].op in ops else None

    def constant(self, name: str) -> Tensor | None:
        """The tensor of this name, if it is one that never changes."""
        return self._constants.get(name)

    def number(self, name: str) -> float | None:
        """The single number of this name."""
        tensor = self.constant(name)
        return float(tensor) if tensor is not None and tensor.numel() == 1 else None

    def rank(self, name: str) -> int:
        """How many axes the constant of this name has."""
        tensor = self.constant(name)
        return -1 if tensor is None else tensor.dim()

    def other(self, node: Node, name: str) -> str:
        """The other of a node's two inputs."""
        return node.inputs[1] if node.inputs[0] == name else node.inputs[0]

    def split(self, node: Node) -> tuple[str, Tensor] | None:
        """The value and the constant that a node joins."""
        for value, held in (node.inputs, tuple(reversed(node.inputs))):
            tensor = self.constant(held)
            if tensor is not None and self.constant(value) is None:
                return value, tensor
        return None

    def put(self, found: _Found) -> None:
        """Let a layer make what the last of its operators made."""
        self._constants |= found.constants
        self._placed[found.node.outputs[0]] = found.node

    def graph(self) -> Graph:
        """The graph with all layers that were put in it."""
        nodes = [self._placed.get(node.outputs[0], node) for node in self._graph.nodes]
        known = {self._graph.input, *self._constants, *self._growing}
        left = ordered(nodes, known, self._graph.output)
        used = consumers(left)
        return replace(self._graph, nodes=left, constants={n: t for n, t in self._constants.items() if n in used})


def _axes(view: _View, node: Node) -> tuple[int, ...]:
    given = node.attributes.get("axes")
    if isinstance(given, tuple):
        return tuple(int(axis) for axis in given)
    tensor = view.constant(node.input(1)) if node.input(1) else None
    return tuple(tensor.reshape(-1).tolist()) if tensor is not None else ()


def _layer_norm(view: _View, node: Node) -> _Found | None:
    """(x - mean) / sqrt(mean((x - mean)^2) + eps), times one constant, plus another, all over the last axis."""
    standard = _standardized(view, node)
    affine = _affine(view, node.outputs[0])
    if standard is None or affine is None or any(view.rank(name) != 1 for name in affine.names):
        return None
    x, eps = standard
    return _Found(_layer("LayerNormalization", affine.end, (x, *affine.names), epsilon=eps), {})


def _standardized(view: _View, node: Node) -> tuple[str, float] | None:
    """What a division brings to mean 0 and variance 1 over the last axis, and the number added to the variance."""
    root = view.maker(node.inputs[1], "Sqrt") if node.op == "Div" else None
    added = view.maker(root.inputs[0], "Add") if root is not None else None
    apart, spread = view.maker(node.input(0), "Sub"), view.split(added) if added is not None else None
    if apart is None or spread is None or spread[1].numel() != 1:
        return None
    mean, var = view.maker(apart.inputs[1], "ReduceMean"), view.maker(spread[0], "ReduceMean")
    square = view.maker(var.inputs[0], "Pow", "Mul") if var is not None else None
    if mean is None or var is None or square is None or mean.inputs[0] != apart.inputs[0]:
        return None
    last = ((-1,), (len(view.shapes[apart.inputs[0]]) - 1,))
    whole = _squares(view, square, apart.outputs[0]) and _axes(view, mean) in last and _axes(view, var) in last
    return (apart.inputs[0], float(spread[1])) if whole else None


def _affine(view: _View, name: str) -> "_Affine | None":
    """The multiplication and the addition of constants that alone use a value."""
    scaled = view.user(name, "Mul")
    shifted = view.user(scaled.outputs[0], "Add") if scaled is not None else None
    if scaled is None or shifted is None:
        return None
    names = (view.other(scaled, name), view.other(shifted, scaled.outputs[0]))
    return _Affine(shifted, names) if all(view.constant(each) is not None for each in names) else None


def _squares(view: _View, node: Node, name: str) -> bool:
    if node.op == "Pow":
        return node.inputs[0] == name and view.number(node.inputs[1]) == 2.0  # noqa: PLR2004 - squared
    return node.inputs[0] == node.inputs[1] == name


def _group_norm(view: _View, node: Node) -> _Found | None:
    """Reshaped to N x groups x rest, normalized by instance without scale and shift, reshaped back, scaled, shifted."""
    if node.op != "InstanceNormalization" or not _idle(view, node):
        return None
    before, after = view.maker(node.inputs[0], "Reshape"), view.user(node.outputs[0], "Reshape")
    affine = _affine(view, after.outputs[0]) if after is not None else None
    if before is None or after is None or affine is None:
        return None
    groups, back = view.shapes[before.outputs[0]], view.shapes[after.outputs[0]]
    x, channels = before.inputs[0], back[1] if len(back) > 1 else 0
    held = [view.constant(name) for name in affine.names]
    by_channel = [
        t.reshape(-1) for t in held if t is not None and t.numel() == channels == len(t.reshape(channels, -1))
    ]
    fits = len(groups) == 3 and view.shapes[x] == back and len(by_channel) == len(held)  # noqa: PLR2004 - N x G x rest
    if not fits or any(t is None or t.dim() != len(back) - 1 for t in held):
        return None
    names = (f"{affine.end.name}.weight", f"{affine.end.name}.bias")
    more = {"epsilon": node.attributes.get("epsilon", 1e-5), "num_groups": groups[1]}
    return _Found(
        _layer("GroupNormalization", affine.end, (x, *names), **more), dict(zip(names, by_channel, strict=True))
    )


def _idle(view: _View, node: Node) -> bool:
    """Whether a normalization neither scales nor shifts."""
    scale, shift = view.constant(node.inputs[1]), view.constant(node.inputs[2])
    return scale is not None and shift is not None and bool((scale == 1).all()) and not bool(shift.any())


def _gelu(view: _View, node: Node) -> _Found | None:
    """Half of x * (1 + erf(x / sqrt 2)), multiplied in any order."""
    inner = view.maker(node.inputs[0], "Div", "Mul") if node.op == "Erf" else None
    scale = view.split(inner) if inner is not None else None
    if inner is None or scale is None or not _is(scale[1], ROOT_2 if inner.op == "Div" else 1 / ROOT_2):
        return None
    raised = view.user(node.outputs[0], "Add")
    one = view.split(raised) if raised is not None else None
    if raised is None or one is None or not _is(one[1], 1.0) or inner.inputs[0] != scale[0]:
        return None
    last = _halved_product(view, raised.outputs[0], scale[0])
    return _Found(_layer("Gelu", last, (scale[0],)), {}) if last is not None else None


def _halved_product(view: _View, raised: str, x: str) -> Node | None:
    """The node that ends the product of ``raised``, x and one half."""
    first = view.user(raised, "Mul")
    if first is None:
        return None
    other = view.other(first, raised)
    half = view.maker(other, "Mul")
    if half is not None and (parts := view.split(half)) is not None and parts[0] == x and _is(parts[1], 0.5):
        return first
    second = view.user(first.outputs[0], "Mul")
    if second is None:
        return None
    rest = view.other(second, first.outputs[0])
    return second if {other, rest} - _halves(view, other, rest) == {x} else None


def _halves(view: _View, *names: str) -> set[str]:
    """Those of the names that are one half."""
    return {name for name in names if (tensor := view.constant(name)) is not None and _is(tensor, 0.5)}


def _is(tensor: Tensor, number: float) -> bool:
    """Whether a tensor is one number, as exporters round it."""
    return tensor.numel() == 1 and abs(float(tensor) - number) < 1e-4  # noqa: PLR2004 - as exporters round it


def _layer(op: str, last: Node, given: tuple[str, ...], **attributes: Attribute) -> Node:
    return Node(last.name, op, given, last.outputs, attributes)
