"""Every setting, changed in a running daemon: what a reload with it is seen to do."""

import copy
import tempfile
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from anatomy import anatomy
from exported import KEPT, export
from reloading import BASE, Reloaded, same
from reloading import settings as complete
from torch import Tensor, nn
from world import network, pictures

from adapters import METHODS
from tta_daemon.control import method_options
from tta_daemon.control.config import Config, Reach, changes, declared, load, reaches
from tta_daemon.control.faults import ConfigRefused
from tta_daemon.control.settings import shown
from tta_daemon.control.slot import Result
from tta_daemon.control.toml import document

Sections = dict[str, Any]

DEFAULT = str(BASE["adapt"]["method"])
DICE = ["dice._extra_state/state"]

COMPANY: Sections = {
    "kafka": {"group_instance_id": "pod-0"},
    "checkpoint": {"folder": "state"},
    "http": {"token_file": "token"},
}
"""What some settings need beside them before another value of theirs is allowed."""

LOGIN = {
    "protocol": "SASL_SSL",
    "mechanism": "PLAIN",
    "username": "u",
    "password_file": "token",
    "cert_file": "cert",
    "key_file": "key",
    "key_password_file": "token",
}
OF_TABLE: dict[str, Sections] = {"kafka.security": {"kafka": {"security": LOGIN}}}
OF_SETTING: dict[str, Sections] = {
    "kafka.security.protocol": {"kafka": {"security": {"cert_file": "", "key_file": ""}}},
    "kafka.security.password": {"kafka": {"security": {"password_file": "", "password": "one"}}},
    "kafka.security.key_password": {"kafka": {"security": {"key_password_file": "", "key_password": "one"}}},
    "http.token": {"http": {"token_file": "", "token": "one"}},
    "model.artifact": {"model": {"factory": "", "artifact": "one.onnx"}},
    "model.checkpoint_key": {"model": {"weights": "two.pt", "checkpoint_key": "one"}},
}

ANOTHER: dict[str, Any] = {
    "kafka.bootstrap_servers": ["elsewhere:9092"],
    "model.factory": "reload_table:twin",
    "model.arguments": {"num_classes": 6},
    "model.artifact": "two.onnx",
    "model.weights": "other.pt",
    "model.checkpoint_key": "two",
    "model.labels": ["a", "b", "c", "d", "e"],
    "model.input_size": [24, 24],
    "model.mean": [0.5, 0.5, 0.5],
    "model.std": [0.5, 0.5, 0.5],
    "model.head": "linear",
    "model.device": "cpu:0",
    "adapt.method": "cotta",
    "publish.formats": ["safetensors"],
}
"""Values that only a person can think of; all others are found by trying."""


def twin() -> nn.Module:
    """Another function that returns the same network."""
    return network()


@dataclass(frozen=True, slots=True)
class Row:
    """One setting, and what a reload with another value of it was seen to do."""

    path: str
    reach: Reach
    old: object
    new: object
    refusal: str = ""
    built: tuple[str, ...] = ()
    learned: str = ""
    unlike: tuple[str, ...] = ()
    """Values in which the reloaded daemon differs from one that was started with the new settings."""

    @property
    def seen(self) -> str:
        """In words."""
        if self.refusal:
            words = self.refusal.partition(f"{self.path}: ")[2]
            return f"refused, nothing changed: {'; '.join(line.strip() for line in words.splitlines())}"
        built = f"built anew: {', '.join(self.built)}" if self.built else "nothing built"
        return f"taken between two batches; {built}; what was learned {self.learned}"


def settings() -> Iterator[str]:
    """The path of every setting, the options of the default method among them."""
    for path, _ in declared(Config):
        yield from [path] if path != method_options.PATH else options(DEFAULT)


def options(method: str) -> list[str]:
    """The path of every option of a method."""
    return [f"{method_options.PATH}.{knob.name}" for knob in method_options.knobs(method)]


def observe(path: str, folder: Path, method: str = DEFAULT) -> Row:
    """Change one setting of a daemon that has learned something, and look at all of it before and after.

    The folder must be empty.
    """
    lay_out(folder)
    of_table = OF_TABLE.get(path.rpartition(".")[0], {})
    old = merged(COMPANY, {"adapt": {"method": method}}, of_table, OF_SETTING.get(path, {}))
    new = _with_another(path, old, folder)
    world = _started(folder, old)
    world.send(pictures(16))
    world.go_on()
    before, parts = world.memory(), _parts(world)
    verdict, reach = world.reload(**new), reaches(method)[path]
    was, value = (_shown(path, load(folder / name, {}), folder) for name in ("old", "new"))
    if verdict.result is Result.REFUSED:
        assert all(part is parts[name] for name, part in _parts(world).items())
        assert same(world.memory(), before)
        return Row(path, reach, was, value, _plain(verdict.words, folder))
    built = tuple(name for name, part in _parts(world).items() if part is not parts[name])
    assert "config" in built
    assert not {"source", "sink"} & set(built)
    world.send(pictures(8, seed=1))
    learned = _fate(world, before, old, new)
    world.go_on()
    assert sorted(world.answered()) == sorted(f"images-0-{n}" for n in range(24 - len(world.buried())))
    return Row(path, reach, was, value, "", built[1:], learned, _unlike_a_fresh_start(folder, old, new))


def lay_out(folder: Path) -> None:
    """The files that settings may name."""
    other = network()
    with torch.no_grad():
        next(other.parameters()).mul_(0.5)
    torch.save(other.state_dict(), folder / "other.pt")
    torch.save({"one": network().state_dict(), "two": other.state_dict()}, folder / "two.pt")
    for name, content in zip(("one", "two"), _artifacts(), strict=True):
        (folder / f"{name}.onnx").write_bytes(content)
    (folder / "token").write_text("a token")


@cache
def _artifacts() -> tuple[bytes, bytes]:
    """Two networks as .onnx files, their norms kept."""
    with tempfile.TemporaryDirectory() as folder:
        path, other = Path(folder) / "net.onnx", network()
        one = export(other, path, 16, 17, dynamo=False, **KEPT).read_bytes()
        with torch.no_grad():
            next(other.parameters()).mul_(0.5)
        return one, export(other, path, 16, 17, dynamo=False, **KEPT).read_bytes()


def merged(*sections: Sections) -> Sections:
    """Tables laid over each other, the last on top."""
    found: Sections = {}
    for table in sections:
        for name, value in copy.deepcopy(table).items():
            both = isinstance(value, dict) and isinstance(found.get(name), dict)
            found[name] = merged(found[name], value) if both else value
    return found


def _started(folder: Path, sections: Sections) -> Reloaded:
    (folder / "config.toml").write_text(document(complete(**sections)))
    world = Reloaded(folder)
    world.daemon.connect()
    return world


def _parts(world: Reloaded) -> dict[str, object]:
    daemon = world.daemon
    parts = {"config": daemon.config, "model": daemon.deployed, "adapter": daemon.learner.adapter}
    return parts | {"decoder": daemon.decoder, "source": daemon.source, "sink": daemon.sink}


def _shown(path: str, config: Config, folder: Path) -> Any:
    return _plain(shown(_value(config, path)), folder)


def _plain(value: Any, folder: Path) -> Any:
    """A value as the file has it: paths relative to it."""
    return value.replace(f"{folder}/", "") if isinstance(value, str) else value


def _fate(world: Reloaded, before: Mapping[str, Tensor], old: Sections, new: Sections) -> str:
    """What became of what was learned, in words."""
    now = world.memory()
    if set(now) == set(before):
        changed = [name for name, tensor in before.items() if not tensor.equal(now[name])]
        if changed in ([], DICE):
            return "is kept, with new dice" if changed else "is kept"
    assert world.daemon.learner.step == 0
    world.reload(**old)
    assert same(world.memory(), dict(before))
    world.reload(**new)
    return "is put aside, and given back with the old value"


def _unlike_a_fresh_start(folder: Path, old: Sections, new: Sections) -> tuple[str, ...]:
    reloaded = _started(folder, old)
    reloaded.reload(**new)
    fresh = _started(folder, new)
    one, other = anatomy(reloaded.daemon), anatomy(fresh.daemon)
    return tuple(sorted(path for path in one.keys() | other.keys() if one.get(path) != other.get(path)))


def _with_another(path: str, old: Sections, folder: Path) -> Sections:
    """The sections with another value of one setting that is allowed; both also as files, `old` and `new`."""
    (folder / "old").write_text(document(complete(**old)))
    standing = load(folder / "old", {})
    for value in [ANOTHER[path]] if path in ANOTHER else _candidates(path, standing):
        change: Any = value
        for name in reversed(path.split(".")):
            change = {name: change}
        new = merged(old, change)
        (folder / "new").write_text(document(complete(**new)))
        try:
            if any(change.path == path for change in changes(standing, load(folder / "new", {}))):
                return new
        except ConfigRefused:
            continue
    raise AssertionError(f"no other value of {path} that we can think of is allowed: give ANOTHER one")


def _value(config: Config, path: str) -> Any:
    value: Any = config
    if path.startswith(f"{method_options.PATH}."):
        return getattr(config.adapt.chosen(), path.rpartition(".")[2])
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _candidates(path: str, config: Config) -> list[Any]:
    value, kind = _value(config, path), _kind(path, config)
    if typing.get_origin(kind) is Literal:
        return list(typing.get_args(kind))
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value * 2, value - 1, value // 2]
    if isinstance(value, float):
        return [value / 2, value + 1.0, value + 0.1, value * 2]
    return ["another", ""]


def _kind(path: str, config: Config) -> Any:
    if path.startswith(f"{method_options.PATH}."):
        return typing.get_type_hints(METHODS[config.adapt.method].options)[path.rpartition(".")[2]]
    return dict(declared(Config))[path].annotation
