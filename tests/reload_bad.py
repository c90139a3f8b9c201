"""Configurations that are no good, each written into the file of a running daemon; and what it says."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from reloading import Reloaded, settings

from tta_daemon.control.slot import Result
from tta_daemon.control.toml import document

Sections = dict[str, dict[str, Any]]


class Bad(NamedTuple):
    """What is wrong, how the file comes to be so, and words that its message must have: what, and what to do."""

    title: str
    content: Sections | bytes | Callable[[Path], None]
    names: str
    remedy: str

    @property
    def shown(self) -> str:
        """What stands in the file, for a table."""
        if isinstance(self.content, bytes):
            return repr(self.content[:40])[2:-1]
        if callable(self.content):
            return ""
        return re.sub(r"\[[^]]+\] (?=\[\w+\.)", "", " ".join(document(self.content).split()))


def hundred_megabytes(file: Path) -> None:
    """A log, say, that was written into the wrong file."""
    with file.open("wb") as large:
        large.truncate(100 << 20)


def folder(file: Path) -> None:
    """What Docker makes where a file to be mounted does not exist."""
    file.unlink()
    file.mkdir()


def half(file: Path) -> None:
    """A copy that was cut short."""
    whole = file.read_bytes()
    file.write_bytes(whole[: whole.index(b"labels_topic") + 18])


BAD = [
    Bad("a typo in a setting", {"batch": {"sise": 8}}, "batch.sise", "did you mean size?"),
    Bad("a typo in a table", {"bacth": {"size": 8}}, "bacth", "did you mean batch?"),
    Bad("a text for a number", {"batch": {"size": "8"}}, "batch.size", "size = 64"),
    Bad("a fraction for a whole number", {"batch": {"size": 8.5}}, "batch.size", "size = 64"),
    Bad("a text for a list", {"model": {"labels": "cat"}}, "model.labels", "labels = []"),
    Bad("a wrong unit", {"batch": {"patience_s": "200 ms"}}, "batch.patience_s", "patience_s = 0.2"),
    Bad("a unit in the name", {"batch": {"patience_ms": 200}}, "batch.patience_ms", "did you mean patience_s?"),
    Bad("a negative time", {"settle": {"every_s": -1.0}}, "settle.every_s", "every_s = 1.0"),
    Bad("not a number", {"adapt": {"max_lag_s": float("nan")}}, "adapt.max_lag_s", "max_lag_s = 0.0"),
    Bad("an infinite time", {"limits": {"drain_s": float("inf")}}, "limits.drain_s", "drain_s = 30.0"),
    Bad("more than the whole", {"adapt": {"budget": 1.5}}, "adapt.budget", "budget = 1.0"),
    Bad("none of the choices", {"adapt": {"when": "sometimes"}}, "adapt.when", "always"),
    Bad("an unknown method", {"adapt": {"method": "tnet"}}, "adapt.method", "did you mean tent?"),
    Bad(
        "another method's option",
        {"adapt": {"options": {"restore_rate": 0.01}}},
        "adapt.options.restore_rate",
        "it is an option of cotta",
    ),
    Bad("an option out of range", {"adapt": {"options": {"lr": -0.1}}}, "adapt.options.lr", "Step size"),
    Bad("a batch too small to learn from", {"adapt": {"learn_from": 99}}, "adapt.learn_from", "raise batch.size"),
    Bad("a commit longer than the group waits", {"settle": {"timeout_s": 400.0}}, "settle.timeout_s", "lower the one"),
    Bad("answers into the input", {"kafka": {"output_topic": "images"}}, "kafka.output_topic", "its own topic"),
    Bad("lifecycle without a token", {"http": {"lifecycle": True}}, "http.token", "set token_file"),
    Bad(
        "a token's file that is not there",
        {"http": {"lifecycle": True, "token_file": "t"}},
        "http.token_file",
        "mounted",
    ),
    Bad("an artifact beside a function", {"model": {"artifact": "net.onnx"}}, "model.factory", "give one of them"),
    Bad("weights that are not there", {"model": {"weights": "net.pt"}}, "model.weights", "check the path"),
    Bad(
        "a package that is not installed", {"model": {"factory": "resnets:r18"}}, "model.factory", "install the package"
    ),
    Bad("labels for another network", {"model": {"labels": ["cat"]}}, "model.labels", "name each class once"),
    Bad("what only a restart can change", {"kafka": {"group_id": "b"}}, "kafka.group_id", "restart the daemon"),
    Bad(
        "two things at once",
        {"batch": {"size": 0}, "log": {"level": "loud"}},
        "log.level",
        "debug, info",
    ),
    Bad("a setting twice", b"[batch]\nsize = 8\nsize = 16\n", "line 3", "stands in the file once"),
    Bad("a text without quotes", b"[adapt]\nmethod = tent\n", "line 2, column 10", "stands in quotes"),
    Bad("another format", b"batch:\n  size: 8\n", "line 1, column 6", "tables in [brackets]"),
    Bad("half a file", half, "line 18", "written to the end?"),
    Bad("an empty file", b"", "kafka.labels_topic", "restart the daemon"),
    Bad("a picture", b"\x89PNG\r\n\x1a\n\x00\x00", "line 1, column 1", "right file?"),
    Bad("UTF-16", "[batch]".encode("utf-16"), "line 1, column 1", "right file?"),
    Bad("100 MB", hundred_megabytes, "config.toml: is larger than 1 MiB", "right file?"),
    Bad("brackets without end", b"a = " + b"[" * 100_000, "config.toml", "two tables deep"),
    Bad("no file", Path.unlink, "config.toml: cannot be read: No such file", "path right"),
    Bad("a folder", folder, "config.toml: cannot be read: Is a directory", "path right"),
]


def spoil(world: Reloaded, bad: Bad) -> None:
    """Make the daemon's file bad."""
    if callable(bad.content):
        bad.content(world.file)
    elif isinstance(bad.content, bytes):
        world.put(bad.content)
    else:
        world.put(document(settings(**bad.content)).encode())


def message(world: Reloaded, bad: Bad) -> str:
    """What a running daemon says of it; paths as if its folder were the working directory."""
    spoil(world, bad)
    verdict = world.reloader.look()
    assert verdict.result is Result.REFUSED, verdict
    return verdict.words.replace(f"{world.file.parent}/", "")
