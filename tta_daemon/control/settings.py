"""The vocabulary of the configuration: what a setting is, what changing it costs, and the types settings have."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, SecretStr, Strict, ValidationInfo


class Reach(StrEnum):
    """How far a change of a setting reaches into the running daemon."""

    LIVE = "live"  # takes effect between two batches
    REBUILD = "rebuild"  # one component is built anew, beside the running one
    RESTART = "restart"  # refused by a reload


LIVE, REBUILD, RESTART = Reach.LIVE, Reach.REBUILD, Reach.RESTART


class Section(BaseModel):
    """A table of the file: frozen, closed to unknown names, and strict about types."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True, protected_namespaces=()
    )


def setting(default: Any, doc: str, reach: Reach, **bounds: Any) -> Any:  # noqa: ANN401 - typed by the field it sets
    """Declare one setting: its default, one line that explains it, what changing it costs, and its bounds."""
    return Field(default, description=doc, json_schema_extra={"reach": reach.value}, **bounds)


def _file(value: object, info: ValidationInfo) -> Path | None:
    if value in ("", None):
        return None
    if not isinstance(value, str | Path):
        raise ValueError(f"{value!r} is not a path")  # noqa: TRY004 - pydantic collects ValueErrors
    folder = (info.context or {}).get("folder")
    return folder / value if folder else Path(value)


def _sequence(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


File = Annotated[Path | None, BeforeValidator(_file), PlainSerializer(lambda path: str(path or ""), return_type=str)]
"""A path, relative to the file that names it; an empty one is none."""

Secret = Annotated[SecretStr, Strict(strict=False)]
"""A value that no log, dump or error message shows."""

Formats = Annotated[tuple[Literal["safetensors", "onnx_adapter"], ...], BeforeValidator(_sequence), Field(min_length=1)]
Texts = Annotated[tuple[str, ...], BeforeValidator(_sequence)]
Triple = Annotated[tuple[float, float, float], BeforeValidator(_sequence)]
Size = Annotated[tuple[int, int], BeforeValidator(_sequence)]
Table = dict[str, Any]

MASK = "********"


def shown(value: object) -> Any:  # noqa: ANN401 - what JSON and TOML hold
    """A setting, or a whole section, as plain values; secrets masked."""
    if isinstance(value, BaseModel):
        return {name: shown(inner) for name, inner in value}
    if isinstance(value, tuple | list):
        return [shown(inner) for inner in value]
    if isinstance(value, dict):
        return {str(key): shown(inner) for key, inner in value.items()}
    if isinstance(value, SecretStr):
        return MASK if value.get_secret_value() else ""
    if isinstance(value, Path):
        return str(value)
    return "" if value is None else value
