"""Pydantic's findings in our words: the setting, what is wrong with it, where it stands, and what to do."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from tta_daemon.control.faults import ConfigRefused, Fault, faults_of, nearest
from tta_daemon.control.sections import Config
from tta_daemon.control.settings import Section, shown
from tta_daemon.control.toml import written
from tta_daemon.errors import ConfigError

KINDS = {
    "bool_type": "is neither true nor false",
    "dict_type": "is not a table",
    "float_type": "is not a number",
    "int_type": "is not a whole number",
    "int_from_float": "is not a whole number",
    "model_type": "is not a table",
    "model_attributes_type": "is not a table",
    "string_type": "is not text",
    "string_pattern_mismatch": "is not of the right form",
    "string_too_short": "is empty",
    "too_short": "is too short",
    "too_long": "is too long",
    "missing": "is too short",
    "tuple_type": "is not a list",
    "finite_number": "is not finite",
}
BOUNDS = {
    "greater_than": "above",
    "greater_than_equal": "at least",
    "less_than": "below",
    "less_than_equal": "at most",
}


@dataclass(frozen=True, slots=True)
class Places:
    """Where settings stand: on a line of the file that says ``text``, or in a variable (path to name)."""

    text: str
    file: str
    origins: Mapping[str, str]

    def of(self, path: str) -> str:
        """Where a setting stands; empty where nobody says it."""
        setting = path.partition("[")[0]
        line = line_of(self.text, setting)
        return self.origins.get(setting) or (f"{self.file}, line {line}" if line else "")

    def added(self, error: ConfigError) -> ConfigRefused:
        """An error that was found later than in reading, each of its faults with its place."""
        return ConfigRefused(replace(f, where=f.where or self.of(f.path)) for f in faults_of(error))


def faults_in(error: ValidationError, places: Places) -> Iterator[Fault]:
    """Every finding as a fault that says where it stands."""
    details = error.errors(include_url=False)
    inner = {detail["loc"][:-1] for detail in details}
    for detail in details:
        if detail["type"] == "too_short" and detail["loc"] in inner:
            continue  # what is wrong inside a list leaves it short
        yield from (replace(fault, where=places.of(fault.path)) for fault in _faults(detail))


def line_of(text: str, path: str) -> int | None:
    r"""The line of a TOML text on which a setting stands, or its table does; None where neither is there.

    >>> line_of("[kafka]\ninput_topic = 'a'\n[kafka.security]\nusername = 'b'", "kafka.security.username")
    4
    """
    wanted, table = path.split("."), []
    best: tuple[int, int | None] = (0, None)
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[\s*([\w.\s\"'-]+?)\s*\]", line):
            table = _parts(header[1])
            here = table
        elif key := re.match(r"\s*([\w.\"'-]+(?:\s*\.\s*[\w\"'-]+)*)\s*=", line):
            here = table + _parts(key[1])
        else:
            continue
        if here == wanted[: len(here)] and len(here) > best[0]:
            best = (len(here), number)
    return best[1]


def _parts(dotted: str) -> list[str]:
    return [part.strip().strip("\"'") for part in dotted.split(".")]


def _faults(detail: ErrorDetails) -> tuple[Fault, ...]:
    context = detail.get("ctx", {})
    if detail["type"] == "faults":
        return tuple(context["faults"])
    path = _dotted(detail["loc"])
    owner, field = _declaration(detail["loc"])
    if detail["type"] == "extra_forbidden":
        name, known = str(detail["loc"][-1]), list(owner.model_fields)
        return (Fault(path, "there is no such setting", nearest(name, known)),)
    value = "the value" if field is not None and field.annotation is SecretStr else repr(detail["input"])
    if len(value) > 80:  # noqa: PLR2004 - about a line
        value = f"{value[:77]}..."
    return (Fault(path, f"{value} {_what(detail, context)}", _remedy(detail["loc"], field)),)


def _what(detail: ErrorDetails, context: Mapping[str, Any]) -> str:
    kind = detail["type"]
    if kind in BOUNDS:
        bound = next(context[name] for name in ("gt", "ge", "lt", "le") if name in context)
        return f"is not {BOUNDS[kind]} {bound:g}"
    if kind == "literal_error":
        return f"is none of {context['expected']}"
    if kind == "value_error":
        return str(context["error"]).removeprefix(f"{detail['input']!r} ")
    return KINDS.get(kind) or f"is refused: {detail['msg'].lower()}"


def _remedy(loc: tuple[int | str, ...], field: FieldInfo | None) -> str:
    if field is None:
        return f"write [{_dotted(loc)}] above its settings"
    name = next(str(part) for part in reversed(loc) if isinstance(part, str))
    return f"{field.description} Default: {name} = {written(shown(field.default))}"


def _dotted(loc: tuple[int | str, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")


def _declaration(loc: tuple[int | str, ...]) -> tuple[type[Section], FieldInfo | None]:
    """The section in which a location lies, and its setting; none where it is a section itself, or unknown."""
    owner: type[Section] = Config
    for part in loc:
        field = owner.model_fields.get(str(part))
        if field is None:
            return owner, None
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, Section)):
            return owner, field
        owner = field.annotation
    return owner, None
