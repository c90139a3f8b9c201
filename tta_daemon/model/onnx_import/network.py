"""An imported graph as a network: layers with names, and a fixed list of steps between them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tta_daemon.model.onnx_import.fold import Growing
from tta_daemon.model.onnx_import.operator import Compute


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


Operand = Made | Held | Count | Growing | Plain


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


class OnnxNetwork(nn.Module):
    """Images, normalized, N x 3 x H x W, to logits, N x C, by the steps of an ONNX file.

    Its layers are ordinary modules under the names that the file gives them, and its other weights parameters: a method
    may swap a layer or train a weight as in any network.
    """

    def __init__(self, steps: Sequence[Step], given: str, output: str) -> None:
        super().__init__()
        self.steps = tuple(steps)
        self.given, self.output = given, output

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

    def _value(self, operand: Operand, values: dict[str, Tensor], n: int) -> Any:  # noqa: ANN401 - whatever the step takes
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
