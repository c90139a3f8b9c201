"""The settings in force, each with what it means and what changing it costs."""

from collections.abc import Iterator, Mapping
from typing import Any

from tta_daemon.control import method_options
from tta_daemon.control.config import Config, declared
from tta_daemon.control.settings import shown


def in_force(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row for each setting of ``settings``, which are as `Config.masked` shows them."""
    if not settings:
        return []
    return [row for path, field in declared(Config) for row in _rows(path, field, settings)]


def _rows(path: str, field: Any, settings: Mapping[str, Any]) -> Iterator[dict[str, Any]]:  # noqa: ANN401 - pydantic's FieldInfo
    value: Any = settings
    for name in path.split("."):
        value = value[name]
    if path == method_options.PATH:
        for knob in method_options.knobs(settings["adapt"]["method"]):
            yield _row(f"{path}.{knob.name}", value[knob.name], knob.default, knob.reach, knob.doc)
    else:
        reach = field.json_schema_extra["reach"]
        yield _row(path, value, shown(field.default), reach, field.description or "")


def _row(path: str, value: Any, default: Any, reach: str, doc: str) -> dict[str, Any]:  # noqa: ANN401 - what JSON holds
    plain = list(default) if isinstance(default, tuple) else default
    value = list(value) if isinstance(value, tuple) else value
    return {"path": path, "value": value, "changed": value != plain, "reach": str(reach), "doc": doc}
