"""Settings from the environment: TTA_KAFKA__INPUT_TOPIC stands in for kafka.input_topic."""

import json
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tta_daemon.control.faults import Fault, nearest
from tta_daemon.control.sections import Config
from tta_daemon.control.settings import Section, Table

PREFIX, DIVIDER = "TTA_", "__"


def overrides(environ: Mapping[str, str], table: Table) -> tuple[dict[str, str], list[Fault]]:
    """Write what the environment says into ``table``; return which variable set what, and variables that set nothing.

    A variable counts where its name has the prefix and the divider, so that those which Kubernetes makes up for a
    service of a like name do not.
    """
    origins: dict[str, str] = {}
    strange: list[Fault] = []
    for variable in sorted(environ):
        if not (variable.startswith(PREFIX) and DIVIDER in variable):
            continue
        names = variable.removeprefix(PREFIX).lower().split(DIVIDER)
        fault = _unknown(variable, names)
        if fault:
            strange.append(fault)
        elif _write(table, names, _value(names, environ[variable])):
            origins[".".join(names)] = f"${variable}"
    return origins, strange


def _unknown(variable: str, names: list[str]) -> Fault | None:
    section: Any = Config
    for depth, name in enumerate(names):
        if _is_table(section):
            return None
        if not (isinstance(section, type) and issubclass(section, Section)):
            parent = PREFIX + DIVIDER.join(names[:depth]).upper()
            return Fault(".".join(names), "there is no such setting", f"did you mean {parent}?", f"${variable}")
        if name not in section.model_fields:
            known = [PREFIX + DIVIDER.join([*names[:depth], other]).upper() for other in section.model_fields]
            hint = nearest(name, list(section.model_fields)).removeprefix("did you mean ").removesuffix("?")
            wanted = PREFIX + DIVIDER.join([*names[:depth], hint, *names[depth + 1 :]]).upper()
            remedy = f"did you mean {wanted}?" if hint in section.model_fields else f"there are: {', '.join(known)}"
            return Fault(".".join(names), "there is no such setting", remedy, f"${variable}")
        section = section.model_fields[name].annotation
    if isinstance(section, type) and issubclass(section, Section):
        return Fault(".".join(names), "is a whole section", "name one setting of it", f"${variable}")
    return None


def _write(table: Table, names: list[str], value: object) -> bool:
    for name in names[:-1]:
        inner = table.setdefault(name, {})
        if not isinstance(inner, dict):
            return False
        table = inner
    table[names[-1]] = value
    return True


def _value(names: list[str], text: str) -> object:
    """Text as the type that its setting has; left as it is where it is none of that type, to be refused by name."""
    section: Any = Config
    for depth, name in enumerate(names):
        field = section.model_fields[name]
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Section):
            continue
        if _is_table(section):
            return _literal(text) if depth + 1 < len(names) else _json(text)
        if getattr(section, "__origin__", None) is tuple:
            return _listed(section.__args__[0], text)
        return _scalar(section, text)
    return text


def _is_table(kind: Any) -> bool:  # noqa: ANN401 - any annotation
    return getattr(kind, "__origin__", None) is dict


def _listed(kind: Any, text: str) -> object:  # noqa: ANN401 - any annotation
    """Commas between plain words, or a JSON list."""
    if text.startswith("["):
        return _json(text)
    return [_scalar(kind, part.strip()) for part in text.split(",") if part.strip()]


def _scalar(kind: Any, text: str) -> object:  # noqa: ANN401 - any annotation
    if kind in (int, float, bool):
        with suppress(ValidationError):
            return TypeAdapter(kind).validate_strings(text)
    return text


def _literal(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, KeyError):
        return text


def _json(text: str) -> Any:  # noqa: ANN401 - any JSON
    try:
        return json.loads(text)
    except ValueError:
        return text
