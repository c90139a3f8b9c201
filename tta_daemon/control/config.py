"""The configuration: read from a file and the environment, checked as a whole; and what a change of it means."""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr, ValidationError

from tta_daemon.control import method_options
from tta_daemon.control.environment import overrides
from tta_daemon.control.faults import ConfigRefused, Fault
from tta_daemon.control.kafka_settings import Kafka, Security
from tta_daemon.control.sections import Config
from tta_daemon.control.settings import Reach, Section, shown
from tta_daemon.control.wording import Places, faults_in
from tta_daemon.errors import ConfigError

__all__ = ["Change", "Config", "Kafka", "Reach", "Security", "changes", "load", "reaches", "read", "revealed"]

LARGEST_FILE = 1 << 20


@dataclass(frozen=True, slots=True)
class Change:
    """One setting that differs between two configurations; secrets masked."""

    path: str
    old: object
    new: object
    reach: Reach


def load(path: Path, environ: Mapping[str, str]) -> Config:
    """The configuration of a file, with what the environment says in its place. Raises ConfigRefused, as `read`."""
    return read(path, environ)[0]


def read(path: Path, environ: Mapping[str, str]) -> tuple[Config, Places]:
    """The configuration of a file, with what the environment says in its place; and where each setting stands.

    Raises:
        ConfigRefused: something is wrong; it lists every fault with its setting, its place and its remedy.
    """
    text = _text(path)
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        end = f"at line {text.count(chr(10)) + 1}, the end"
        words = str(error).replace("at end of document", end)
        raise ConfigRefused([Fault(str(path), f"this is not TOML: {words}", _toml_remedy(text, words))]) from error
    except RecursionError as error:
        raise ConfigRefused(
            [Fault(str(path), "this is nested too deeply", "the settings are two tables deep")]
        ) from error
    origins, strange = overrides(environ, table)
    places = Places(text, path.name, origins)
    try:
        config = Config.model_validate(table, context={"folder": path.absolute().parent})
    except ValidationError as error:
        raise ConfigRefused([*faults_in(error, places), *strange]) from error
    if strange:
        raise ConfigRefused(strange)
    return config, places


def reaches(method: str | None = None) -> dict[str, Reach]:
    """How far a change of each setting reaches, by full path; with the options of a method where one is named."""
    found = {path: Reach(field.json_schema_extra["reach"]) for path, field in declared(Config)}
    return found | (method_options.reaches(method) if method else {})


def changes(old: Config, new: Config) -> list[Change]:
    """Every setting that differs, in the order of the file."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    reach = reaches(old.adapt.method) | reaches(new.adapt.method)
    if old.adapt.method != new.adapt.method:
        reach |= {path: Reach.REBUILD for path in reach if path.startswith(f"{method_options.PATH}.")}
    return [
        Change(path, shown(before.get(path)), shown(after.get(path)), reach[path])
        for path in dict.fromkeys([*before, *after])
        if before.get(path) != after.get(path)
    ]


def revealed(secret: SecretStr, file: Path | None, path: str) -> str:
    """A secret in the clear, from its setting or its file; empty where there is neither.

    Raises:
        ConfigError: the file cannot be read.
    """
    if file is None:
        return secret.get_secret_value()
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise ConfigError(f"{path}_file", f"cannot read {file}: {reason}", "is it mounted and readable?") from error


def declared(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting as its full path and pydantic's field, in the order of the file."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from declared(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        remedy = "is the path right, and may we read it?"
        raise ConfigRefused([Fault(str(path), f"cannot be read: {error.strerror}", remedy)]) from error
    if len(content) > LARGEST_FILE:
        raise ConfigRefused([Fault(str(path), "is larger than 1 MiB", "no configuration is; is it the right file?")])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        lines = content[: error.start].split(b"\n")
        place = f"line {len(lines)}, column {len(lines[-1]) + 1} is not UTF-8"
        raise ConfigRefused([Fault(str(path), f"is not text: {place}", "is it the right file?")]) from error


def _toml_remedy(text: str, words: str) -> str:
    if "overwrite" in words or "twice" in words:
        return "each table and each setting stands in the file once"
    if not text.endswith("\n"):
        return "the file does not end with a line break: was it written to the end?"
    return 'text stands in quotes, tables in [brackets]: [kafka] and then input_topic = "images"'


def _leaves(config: Config) -> Iterator[tuple[str, object]]:
    for path, _ in declared(Config):
        if path == method_options.PATH:
            yield from ((f"{path}.{name}", value) for name, value in asdict(config.adapt.chosen()).items())
            continue
        value: Any = config
        for name in path.split("."):
            value = getattr(value, name)
        yield path, value
