"""The graph of an exported program, JSON, as a network of layers and steps."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tta_daemon.model import aten
from tta_daemon.model.exported_layers import LAYERS, WEIGHTS, Table, Unreadable
from tta_daemon.model.imported import Compute, Held, ImportedNetwork, Made, Operand, Plain, Several, Step, Where

MOST_NODES = 100_000
DTYPES: Mapping[int, Any] = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float32, 7: torch.float32,
    8: torch.float32, 12: torch.bool, 13: torch.float32,
}  # fmt: skip
"""As the schema of torch.export numbers them; every floating type is the network's own."""

FORMATS: Mapping[int, Any] = {1: torch.contiguous_format, 2: torch.channels_last, 4: torch.preserve_format}


def network_of(module: Table, tensors: Mapping[str, Tensor]) -> tuple[ImportedNetwork, tuple[int | None, ...]]:
    """The network of a graph with these weights and constants by name, and the shape of its images.

    Raises:
        Unreadable: it has parts that are not known.
    """
    building = _Building(module, tensors)
    return building.network(), building.shape


class _Building:
    def __init__(self, module: Table, tensors: Mapping[str, Tensor]) -> None:
        graph = module["graph"]
        self._nodes: Sequence[Table] = graph["nodes"]
        if len(self._nodes) > MOST_NODES:
            raise Unreadable(f"it has {len(self._nodes)} nodes, more than {MOST_NODES}")
        self._tensors: dict[str, tuple[str, Tensor, bool]] = {}
        self._turned: dict[str, str] = {}
        self._held: dict[str, Held] = {}
        given = list(self._inputs(module["signature"]["input_specs"], tensors))
        if len(given) != 1:
            raise Unreadable(f"it takes {len(given)} inputs, not one: images")
        sizes = graph["tensor_values"][given[0]]["sizes"]
        self.shape = tuple(int(size["as_int"]) if "as_int" in size else None for size in sizes)
        if len(self.shape) != 4 or self.shape[1] not in {3, None}:  # noqa: PLR2004 - N x 3 x H x W
            raise Unreadable(f"its input is {self.shape}, not N x 3 x H x W")
        self._network = ImportedNetwork(given[0], _answer(graph))

    def network(self) -> ImportedNetwork:
        self._network.take([step for node in self._nodes for step in self._steps(node)])
        return self._network.eval()

    def _inputs(self, specs: Sequence[Table], tensors: Mapping[str, Tensor]) -> Iterator[str]:
        """The names of what is given from outside; weights, buffers and constants are put aside."""
        for spec in specs:
            ((kind, about),) = spec.items()
            if kind == "user_input":
                yield about["arg"]["as_tensor"]["name"]
            elif kind in {"parameter", "buffer", "tensor_constant"}:
                name = about[f"{kind}_name"]
                self._tensors[about["arg"]["name"]] = (name, tensors[name], kind == "parameter")
            else:
                raise Unreadable(f"it is given a {kind}, which is not read")

    def _steps(self, node: Table) -> Iterator[Step]:
        target, name = str(node["target"]), str(node.get("name") or node["target"])
        if target.startswith(aten.SKIPPED):
            return
        known = aten.named(target)
        if known is None:
            raise Unreadable(f"operator {target} is not known; first at node {name!r}")
        outputs = tuple(_outputs(node["outputs"]))
        compute, arguments = known
        given: dict[str, Any] = {entry["name"]: entry["arg"] for entry in node["inputs"]}
        values = {key: given.get(key, {"default": default}) for key, default in arguments} if arguments else given
        layer = self._layer(target.split(".")[3] if arguments else "", values)
        if layer is None:
            if self._turns(target, given, outputs):
                return
            operands = tuple(self._operand(value) for value in values.values())
            yield Step(name, _called(compute, values, arguments), operands, outputs)
        else:
            module, weight, images = layer
            put = self._network.put_layer(weight.removesuffix(".weight"), module)
            yield Step(name, put, (self._operand(images),), outputs[:1])

    def _layer(self, op: str, values: Mapping[str, Any]) -> tuple[nn.Module, str, Any] | None:
        """The module that a call is, where its weights are the program's; the name of its weight, and its input."""
        make = LAYERS.get(op)
        if make is None:
            return None
        if op in {"addmm", "mm"}:
            weight = self._turned.get(_name(values["mat2"]))
            bias = values.get("self") if op == "addmm" else {"as_none": True}
            if weight is None or op == "mm":
                return None
            values = {"input": values["mat1"], "weight": {"as_tensor": {"name": weight}}, "bias": bias}
        kept = {key: self._tensors.get(_name(value)) for key, value in values.items()}
        weight_of = kept.get("weight")
        lacking = [key for key in WEIGHTS if _name(values.get(key)) and kept.get(key) is None]
        if weight_of is None or lacking:
            return None
        plain = {key: _plain(value) for key, value in values.items() if not _name(value)}
        module = make({key: held[1] for key, held in kept.items() if held is not None}, plain)
        return (
            None
            if module is None
            else (module.requires_grad_(False), weight_of[0], values["input" if "input" in values else "self"])
        )

    def _turns(self, target: str, given: Mapping[str, Any], outputs: Sequence[str]) -> bool:
        """Whether a call only transposes a weight, as decomposed programs do before they multiply by it."""
        source = _name(given.get("self"))
        op = target.split(".")[-2]
        swaps = op == "t" or (op == "permute" and _plain(given.get("dims")) == [1, 0])
        if not swaps or source not in self._tensors or self._tensors[source][1].dim() != 2:  # noqa: PLR2004 - a matrix
            return False
        path, tensor, learns = self._tensors[source]
        self._turned[outputs[0]] = source
        self._tensors[outputs[0]] = (path, tensor.T.contiguous(), learns)
        return True

    def _operand(self, value: Any) -> Operand:  # noqa: ANN401, PLR0911 - any argument of the schema, a return a kind
        kind, held = ("default", value["default"]) if "default" in value else _said(value)
        match kind:
            case "default":
                return Plain(held)
            case "as_tensor":
                return self._value(held["name"])
            case "as_tensors":
                return Several(tuple(self._value(each["name"]) for each in held))
            case "as_optional_tensors":
                return Several(tuple(self._operand(each) for each in held))
            case "as_sym_int":
                return _number(held)
            case "as_sym_ints":
                return Several(tuple(_number(each) for each in held))
        return Where() if kind == "as_device" else Plain(_plain(value))

    def _value(self, name: str) -> Operand:
        if name not in self._tensors:
            return Made(name)
        if name not in self._held:
            path, tensor, learns = self._tensors[name]
            self._held[name] = self._network.hold(path, tensor, learns=learns and tensor.is_floating_point())
        return self._held[name]


def _answer(graph: Table) -> str:
    """The one output of the graph that is N x C."""
    names = [each["as_tensor"]["name"] for each in graph["outputs"] if "as_tensor" in each]
    flat = [name for name in names if len(graph["tensor_values"][name]["sizes"]) == 2]  # noqa: PLR2004 - N x C
    if len(flat) != 1:
        raise Unreadable(f"it gives {len(names)} tensors, {len(flat)} of them N x C logits, where one is wanted")
    last = graph["nodes"][-1]
    if flat == list(_outputs(last["outputs"])) and ".softmax." in f"{last['target']}.":
        return str(last["inputs"][0]["arg"]["as_tensor"]["name"])
    return str(flat[0])


def _outputs(outputs: Sequence[Table]) -> Iterator[str]:
    for output in outputs:
        if "as_tensor" in output:
            yield str(output["as_tensor"]["name"])
        elif "as_tensors" in output:
            yield from (str(each["name"]) for each in output["as_tensors"])
        elif "as_sym_int" in output:
            yield str(output["as_sym_int"]["as_name"])
        else:
            raise Unreadable(f"a node gives {next(iter(output), 'nothing')}, which is not read")


def _called(compute: Compute, values: Mapping[str, Any], arguments: Sequence[tuple[str, Any]]) -> Compute:
    """The operator, called by its arguments' names: its schema says which of them must be named."""
    names = tuple(values)
    if not arguments:
        return compute

    def call(*given: Any) -> Any:  # noqa: ANN401 - whatever the operator takes and gives
        made = compute(**dict(zip(names, given, strict=True)))
        return tuple(made) if isinstance(made, list) else made

    return call


def _number(held: Table) -> Operand:
    return Made(str(held["as_name"])) if held.get("as_name") is not None else Plain(int(held["as_int"]))


def _name(value: Any) -> str:  # noqa: ANN401 - any argument of the schema
    """The name of the tensor that an argument is; empty where it is none."""
    return str(value["as_tensor"]["name"]) if isinstance(value, Mapping) and value.get("as_tensor") else ""


def _said(value: Table) -> tuple[str, Any]:
    """The kind of an argument, and the argument."""
    return next(((kind, held) for kind, held in value.items() if held is not None), ("as_none", True))


def _plain(value: Any) -> Any:  # noqa: ANN401 - any argument of the schema
    """A number, a list of them, a word, or nothing."""
    if value is None or "default" in value or "as_sym_int" in value:
        return value["default"] if value and "default" in value else None
    kind, held = _said(value)
    if kind in {"as_int", "as_ints", "as_bool", "as_bools", "as_string"}:
        return held
    if kind in {"as_float", "as_floats"}:  # JSON has no infinity, so it comes as a word
        return float(held) if kind == "as_float" else [float(each) for each in held]
    if kind == "as_sym_ints" and all(each.get("as_int") is not None for each in held):
        return [int(each["as_int"]) for each in held]
    if kind in {"as_scalar_type", "as_memory_format"}:
        return (DTYPES if kind == "as_scalar_type" else FORMATS).get(held)
    if kind in {"as_none", "as_layout"}:
        return None
    raise Unreadable(f"an argument of the kind {kind} is not read")
