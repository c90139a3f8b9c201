"""A method's own options, as the file gives them: checked one by one against the method's declaration.

The methods are imported when they are first asked for: they bring torch with them.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from tta_daemon.control.faults import Fault, nearest, refusal
from tta_daemon.control.settings import Reach

PATH = "adapt.options"


def names() -> list[str]:
    """Every method there is."""
    return list(_methods())


def require(method: str) -> None:
    """Refuse a method that does not exist."""
    if method not in names():
        raise refusal([Fault("adapt.method", f"no method is called {method!r}", nearest(method, names()))])


def read(method: str, given: Mapping[str, object]) -> Any:  # noqa: ANN401 - the method's own options type
    """The method's options with what is ``given`` in place of the published defaults."""
    kind = _methods()[method].options
    types = get_type_hints(kind, include_extras=True)
    values: dict[str, object] = {}
    faults: list[Fault] = []
    for name, value in given.items():
        if name not in types:
            faults.append(
                Fault(f"{PATH}.{name}", f"{method} has no such option", _whose(name) or nearest(name, list(types)))
            )
            continue
        try:
            values[name] = _strict(types[name]).validate_python(tuple(value) if isinstance(value, list) else value)
        except ValidationError as error:
            doc = next(knob.doc for knob in knobs(method) if knob.name == name)
            faults += [Fault(f"{PATH}.{name}", f"{value!r}: {e['msg'].lower()}", doc) for e in error.errors()]
    if faults:
        raise refusal(faults)
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise refusal([Fault(PATH, str(error))]) from error


def schema(method: str) -> dict[str, Any]:
    """The JSON Schema of the method's options."""
    found: dict[str, Any] = TypeAdapter(_methods()[method].options).json_schema()
    for knob in knobs(method):
        found["properties"][knob.name] |= {"description": knob.doc, "reach": knob.reach}
    return found | {"additionalProperties": False}


def _whose(option: str) -> str:
    """Words that lead to the methods that have an option; empty where none does."""
    having = [method for method in names() if option in {knob.name for knob in knobs(method)}]
    return f"it is an option of {', '.join(having)}" if having else ""


def knobs(method: str) -> Iterator[Any]:
    """Every option of the method, as `adapters.options.Knob`."""
    from adapters.options import knobs as declared  # noqa: PLC0415 - torch comes with it

    return declared(_methods()[method].options)


def reaches(method: str) -> dict[str, Reach]:
    """How far a change of each of the method's options reaches, by full path."""
    return {f"{PATH}.{knob.name}": Reach(knob.reach) for knob in knobs(method)}


@cache
def _strict(kind: Any) -> TypeAdapter[Any]:  # noqa: ANN401 - any annotation
    return TypeAdapter(kind, config=ConfigDict(strict=True))


def _methods() -> Mapping[str, Any]:
    from adapters import METHODS  # noqa: PLC0415 - torch comes with it

    return METHODS
