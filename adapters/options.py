"""How a method declares its numbers: a frozen dataclass whose fields explain themselves."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

Reach = Literal["live", "rebuild"]

Rate = Annotated[float, Ge(0.0), Le(1.0)]
NonNegative = Annotated[float, Ge(0.0)]
Positive = Annotated[float, Gt(0.0)]
Count = Annotated[int, Ge(1)]
Optimizer = Literal["adam", "sgd"]


def knob(default: Any, doc: str, reach: Reach = "live") -> Any:  # noqa: ANN401 - typed by the field it sets
    """Declare one option: its default, one line that explains it, and what changing it costs.

    A ``live`` number may change between two steps without losing what was learned; a ``rebuild`` one shapes the
    adapter itself, so changing it means a new adapter.
    """
    return dataclasses.field(default=default, metadata={"doc": doc, "reach": reach})


@dataclass(frozen=True, slots=True)
class Knob:
    """One option as documentation and reload see it."""

    name: str
    default: Any
    doc: str
    reach: Reach


def knobs(options: type) -> Iterator[Knob]:
    """Every option of an options class, in the order in which it declares them."""
    for field in dataclasses.fields(options):
        yield Knob(field.name, field.default, field.metadata["doc"], field.metadata["reach"])


@dataclass(frozen=True, slots=True)
class Learning:
    """The options of every method that descends a gradient."""

    lr: NonNegative = knob(1e-3, "Step size. 0 learns nothing.")
    momentum: Rate = knob(0.9, "SGD's momentum, or the decay of Adam's first moment.")
    optimizer: Optimizer = knob("adam", "Which optimizer descends: adam or sgd.", reach="rebuild")
    nesterov: bool = knob(False, "Nesterov's form of SGD's momentum.", reach="rebuild")
