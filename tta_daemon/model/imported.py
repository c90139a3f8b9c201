"""A network that was read from a file: layers with names, and a fixed list of steps between them."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

Compute = Callable[..., Any]
"""Takes a step's operands in their order; gives a tensor, or a tuple of several values."""

LONGEST_NAME = 120


@dataclass(frozen=True, slots=True)
class Growing:
    """Whole numbers, one or a row of them, that follow the number of images: ``base + slope * n``."""

    base: tuple[int, ...]
    slope: tuple[int, ...]
    single: bool = False

    def at(self, n: int) -> Any:  # noqa: ANN401 - a number, or a list of them
        """What they are for ``n`` images."""
        made = [base + slope * n if slope else base for base, slope in zip(self.base, self.slope, strict=True)]
        return made[0] if self.single else made


@dataclass(frozen=True, slots=True)
class Made:
    """A value that an earlier step made."""

    name: str


@dataclass(frozen=True, slots=True)
class Held:
    """A tensor of the network, by the dotted name of its module and its own."""

    module: str
    leaf: str


@dataclass(frozen=True, slots=True)
class Count:
    """A tensor of whole numbers that follows the number of images."""

    numbers: Growing


@dataclass(frozen=True, slots=True)
class Plain:
    """A number, a list of them, or nothing."""

    value: Any


@dataclass(frozen=True, slots=True)
class Where:
    """The device on which the images are."""


@dataclass(frozen=True, slots=True)
class Several:
    """A list of operands."""

    each: tuple["Operand", ...]


Operand = Made | Held | Count | Growing | Plain | Where | Several


@dataclass(frozen=True, slots=True)
class Step:
    """One operator: a layer of the network by its dotted name, or a function.

    Attributes:
        node: what the file calls it.
        run: the layer's name, or the function.
        operands: what it is given.
        outputs: the names of what it makes.
        done: names of values that nobody asks for after it.
    """

    node: str
    run: str | Compute
    operands: tuple[Operand, ...]
    outputs: tuple[str, ...]
    done: tuple[str, ...] = ()


class ImportedNetwork(nn.Module):
    """Images, normalized, N x 3 x H x W, to logits, N x C, by the steps of a file.

    Its layers are ordinary modules under the names that the file gives them, and its other weights parameters: a method
    may swap a layer or train a weight as in any network.
    """

    def __init__(self, given: str, output: str) -> None:
        super().__init__()
        self.steps: tuple[Step, ...] = ()
        self.given, self.output = given, output

    def take(self, steps: Sequence[Step]) -> None:
        """Go by these steps from now on."""
        self.steps = tuple(_letting_go(steps, {self.given, self.output}))

    def put_layer(self, name: str, layer: nn.Module) -> str:
        """Give a layer a place under a name like this one, and say under which."""
        path, leaf = self._place(name)
        self.get_submodule(path).add_module(leaf, layer)
        return f"{path}.{leaf}" if path else leaf

    def hold(self, name: str, tensor: Tensor, *, learns: bool) -> Held:
        """Keep a tensor under a name like this one, as a parameter if it ``learns``."""
        path, leaf = self._place(name)
        owner = self.get_submodule(path)
        if learns:
            owner.register_parameter(leaf, nn.Parameter(tensor.clone()))
        else:
            owner.register_buffer(leaf, tensor.clone())
        return Held(path, leaf)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, N x C."""
        values = {self.given: images}
        for step in self.steps:
            self.advance(step, values)
        return values[self.output]

    def advance(self, step: Step, values: dict[str, Tensor]) -> None:
        """Take one step, and let go of what nobody needs any more."""
        n = values[self.given].size(0)
        operands = [self._value(operand, values, n) for operand in step.operands]
        run = self.get_submodule(step.run) if isinstance(step.run, str) else step.run
        made = run(*operands)
        values.update(zip(step.outputs, made if isinstance(made, tuple) else (made,), strict=False))
        for name in step.done:
            del values[name]

    def _value(self, operand: Operand, values: dict[str, Tensor], n: int) -> Any:  # noqa: ANN401, PLR0911 - a return a kind
        match operand:
            case Made():
                return values[operand.name]
            case Held():
                return getattr(self.get_submodule(operand.module), operand.leaf)
            case Growing():
                return operand.at(n)
            case Count():
                return torch.tensor(operand.numbers.at(n), device=values[self.given].device)
            case Plain():
                return operand.value
            case Where():
                return values[self.given].device
            case Several():
                return [self._value(each, values, n) for each in operand.each]

    def _place(self, name: str) -> tuple[str, str]:
        """A free place under a name like this one. The file may say anything, so little of it is taken over."""
        parts = [part for part in re.sub(r"[^\w.]+", "_", name[:LONGEST_NAME]).split(".") if part] or ["unnamed"]
        module: nn.Module = self
        path: list[str] = []
        for part in parts[:-1]:
            inner = dict(module.named_children()).get(part)
            if type(inner) is not nn.Module:
                part = _free(module, part)  # noqa: PLW2901 - the name that it gets
                inner = nn.Module()
                module.add_module(part, inner)
            module = inner
            path.append(part)
        return ".".join(path), _free(module, parts[-1])


def _free(module: nn.Module, name: str) -> str:
    while hasattr(module, name):
        name += "_"
    return name


def _letting_go(steps: Sequence[Step], kept: set[str]) -> list[Step]:
    """The same steps, each letting go of the values that it is the last to need, or that nobody needs."""
    needed, found = set(kept), list[Step]()
    for step in reversed(steps):
        wanted = set(_names(step.operands))
        found.append(replace(step, done=tuple(sorted((wanted | set(step.outputs)) - needed))))
        needed |= wanted
    return found[::-1]


def _names(operands: Sequence[Operand]) -> Iterator[str]:
    for operand in operands:
        if isinstance(operand, Made):
            yield operand.name
        elif isinstance(operand, Several):
            yield from _names(operand.each)
