"""The references that are written from the code: config.toml, and the pages on configuration and metrics."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tta_daemon.control import method_options
from tta_daemon.control.config import Config
from tta_daemon.control.settings import Section, shown
from tta_daemon.control.toml import written
from tta_daemon.watch.instruments import Instruments

GENERATED = "Written by scripts/reference from the code; do not edit."

CONFIGURATION = """\
`tta-daemon run --config FILE` reads a TOML file. [config.toml](../config.toml) shows every setting at its default.
The environment wins over the file: `TTA_KAFKA__INPUT_TOPIC=photos` stands in for `kafka.input_topic`; lists are
separated by commas. Paths in the file are relative to it. `tta-daemon check FILE` prints all that is wrong with a file.

Every setting has a reach: **live** takes effect between two batches, **rebuild** builds one component anew beside the
running one, **restart** is refused by a reload. `tta-daemon config diff OLD NEW` shows it for a change, and
[reload.md](reload.md) what a change of each setting was seen to do.

Secrets belong in a file (`password_file`) or the environment (`TTA_KAFKA__SECURITY__PASSWORD`); they are masked
wherever settings are shown."""

METRICS = """\
Prometheus reads these at `/metrics`, port 9464 unless `[http]` says otherwise. Labels have few values, all of them
known beforehand. Beside these stand the process's and Python's own, `process_*` and `python_*`."""


def config_toml() -> str:
    """The annotated reference: every setting at its default."""
    lines = [
        "# Every setting of the daemon at its default. Copy what you change; what is absent has the value shown here.",
        "# [live] takes effect between two batches, [rebuild] builds one component anew, [restart] needs a restart.",
        "# The environment wins over the file: TTA_KAFKA__INPUT_TOPIC stands in for kafka.input_topic.",
        "# Paths are relative to this file.",
        f"# {GENERATED}",
    ]
    for table, section in _sections(Config):
        lines += ["", f"# {_doc(section)}", f"[{table}]"]
        for name, field in section.model_fields.items():
            if isinstance(field.default, Section) or f"{table}.{name}" == method_options.PATH:
                continue
            lines += _annotated(name, shown(field.default), field.description or "", _reach(field))
        if table == "adapt":
            method = section.model_fields["method"].default
            lines += [
                "",
                f"# Options of the method; these are {method}'s, and docs/configuration.md has those of all.",
                f"[{method_options.PATH}]",
            ]
            for knob in method_options.knobs(method):
                lines += _annotated(knob.name, knob.default, knob.doc, knob.reach)
    return "\n".join(lines) + "\n"


def configuration_page() -> str:
    """docs/configuration.md."""
    parts = ["# Configuration", f"<!-- {GENERATED} -->", CONFIGURATION]
    for table, section in _sections(Config):
        rows = [
            (f"`{name}`", f"`{written(shown(field.default))}`", _reach(field), field.description or "")
            for name, field in section.model_fields.items()
            if not isinstance(field.default, Section)
        ]
        parts += [f"## `[{table}]`", _doc(section), _table(("Setting", "Default", "Reach", "Meaning"), rows)]
    parts += ["## `[adapt.options]`", "Each method has its own; docs/methods.md says what the methods are."]
    for method in method_options.names():
        rows = [(f"`{k.name}`", f"`{written(k.default)}`", k.reach, k.doc) for k in method_options.knobs(method)]
        parts += [f'### `method = "{method}"`']
        parts += [_table(("Option", "Default", "Reach", "Meaning"), rows) if rows else "It has no options."]
    return "\n\n".join(parts) + "\n"


def metrics_page() -> str:
    """docs/metrics.md."""
    rows = [
        (f"`{i.name}`", i.kind, ", ".join(f"`{label}`" for label in i.labels), i.help) for i in Instruments().declared
    ]
    parts = ["# Metrics", f"<!-- {GENERATED} -->", METRICS, _table(("Metric", "Type", "Labels", "Meaning"), rows)]
    return "\n\n".join(parts) + "\n"


def schema() -> dict[str, Any]:
    """The JSON Schema of the configuration, the options of each method included."""
    found = Config.model_json_schema()
    adapt, methods = found["$defs"]["Adapt"], method_options.names()
    chosen = adapt["properties"]["method"] | {"enum": methods}
    adapt["properties"]["method"] = chosen
    adapt["allOf"] = [
        {
            "if": {"properties": {"method": {"const": name}}, "required": ["method"] * (name != chosen["default"])},
            "then": {"properties": {"options": method_options.schema(name)}},
        }
        for name in methods
    ]
    return found


def differing(config: Config) -> dict[str, Any]:
    """The settings that are not at their defaults, as `Config.masked` shows them."""
    return _difference(config.masked(), Config().masked())


def _difference(table: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping) and isinstance(defaults.get(name), Mapping):
            if inner := _difference(value, defaults[name]):
                found[name] = inner
        elif name not in defaults or value != defaults[name]:
            found[name] = value
    return found


def _sections(root: type[Section], prefix: str = "") -> Iterator[tuple[str, type[Section]]]:
    for name, field in root.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield f"{prefix}{name}", kind
            yield from _sections(kind, f"{prefix}{name}.")


def _annotated(name: str, default: object, doc: str, reach: str) -> list[str]:
    return [f"# {doc} [{reach}]", f"{name} = {written(default)}"]


def _doc(section: type[Section]) -> str:
    return (inspect.getdoc(section) or "").splitlines()[0]


def _reach(field: Any) -> str:  # noqa: ANN401 - pydantic's FieldInfo, whose extra is of any type
    return str(field.json_schema_extra["reach"])


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    cells = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells)
