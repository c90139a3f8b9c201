"""Configuration files drawn at random, good ones and bad ones, and the ways by which a file gets into its place."""

import copy
import random
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from tta_daemon.control.toml import document

Sections = dict[str, dict[str, Any]]


class Way(StrEnum):
    """How a daemon hears of another file."""

    MOVE = "mv"
    SWAP = "..data swapped"
    HANGUP = "mv, SIGHUP"
    POST = "mv, POST"


class File(NamedTuple):
    """A file to reload, and words of its refusal; none where it is good."""

    name: str
    content: bytes
    refused: str = ""


class Place:
    """Where a daemon's file stands: plain, or as Kubernetes mounts a ConfigMap, a link into `..data`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "config.toml"

    def move(self, content: bytes) -> None:
        """Put this in the place of the file, at once as a whole."""
        fresh = self.folder / "fresh"
        fresh.write_bytes(content)
        fresh.replace(self.file)

    def swap(self, content: bytes) -> None:
        """Do what a kubelet does: a new folder, and the link `..data` leads to it from one moment to the next."""
        folder = self.folder / f"..{time.monotonic_ns()}"
        folder.mkdir()
        (folder / self.file.name).write_bytes(content)
        self._link(Path("..data"), folder.name)
        if not self.file.is_symlink():
            self._link(Path(self.file.name), f"..data/{self.file.name}")

    def _link(self, name: Path, to: str) -> None:
        fresh = self.folder / "..link"
        fresh.symlink_to(to)
        fresh.replace(self.folder / name)


NEUTRAL: dict[str, list[Any]] = {
    "settle.every_s": [0.05, 0.1, 0.2],
    "settle.timeout_s": [20.0, 30.0],
    "checkpoint.every_s": [0.5, 5.0],
    "limits.drain_s": [20.0, 40.0],
    "limits.reject_ratio": [0.4, 0.8],
    "limits.reject_window": [100, 2000],
    "limits.waiting_bytes": [1 << 27, 1 << 28],
    "watch.sample": [0.1, 0.3, 1.0],
    "watch.label_window": [50, 1000],
    "watch.window": [10, 1000],
    "http.stall_s": [20.0, 30.0],
    "log.level": ["debug", "info"],
    "adapt.seed": [0, 1],
    "adapt.max_lag_s": [0.0, 1e6],
    "streams.max_resident": [8, 64],
    "streams.ttl_s": [0.0, 60.0],
}
"""Settings that change nothing of what tent learns: most are live, the seed builds the adapter anew."""

ANY: dict[str, list[Any]] = {
    "batch.size": [4, 8, 16],
    "batch.patience_s": [0.02, 0.1],
    "adapt.when": ["always", "never"],
    "adapt.learn_from": [1, 4],
    "adapt.every": [1, 2],
    "adapt.budget": [0.5, 1.0],
    "adapt.method": ["tent", "norm", "source", "sar", "rotta", "cotta"],
    "model.weights": ["", "other.pt"],
    "model.labels": [[], ["a", "b", "c", "d", "e"]],
    "model.std": [[1.0, 1.0, 1.0], [0.5, 0.5, 0.5]],
    "input.max_images": [7, 256],
    "input.decoders": [1, 2],
    "input.resize": ["refuse", "stretch"],
}
"""Settings that may change what is learned, and by what, while the stream runs."""

BAD: dict[str, tuple[Callable[[Sections], object], str]] = {
    "a typo": (lambda s: s["batch"].update(sise=8), "batch.sise: there is no such setting"),
    "a text for a number": (lambda s: s["batch"].update(size="eight"), "'eight' is not a whole number"),
    "a negative time": (lambda s: s["settle"].update(every_s=-1.0), "-1.0 is not above 0"),
    "an unknown method": (lambda s: s["adapt"].update(method="tnet"), "no method is called 'tnet'"),
    "another method's option": (lambda s: s["adapt"].update(options={"capacity": 4}), "tent has no such option"),
    "a batch that never learns": (lambda s: s["adapt"].update(learn_from=99), "adapt.learn_from"),
    "weights that are not there": (lambda s: s["model"].update(weights="absent.pt"), "absent.pt does not exist"),
    "a factory that is not there": (lambda s: s["model"].update(factory="world:absent"), "has no 'absent'"),
    "labels for another network": (lambda s: s["model"].update(labels=["a"]), "1 names for a network of 5 classes"),
    "another topic": (lambda s: s["kafka"].update(output_topic="elsewhere"), "by a reload"),
}
"""What is done to good sections to make them bad, and words of the refusal."""

NONSENSE = [
    File("half a file", b'[batch]\nsize = 8\n[adapt]\nmethod = "te', "this is not TOML"),
    File("a picture", b"\x89PNG\r\n\x1a\n\x00\x00", "is not text"),
    File("2 MiB", b"#" * (2 << 20), "is larger than 1 MiB"),
    File("nothing", b"", "cannot become"),
]


class Drawer:
    """Draws one file after the other, no bad one twice in a row.

    Args:
        base: the sections that every good file has.
        settings: which settings vary, path by path, and between what.
        seed: of the drawing.
    """

    def __init__(self, base: Sections, settings: Mapping[str, list[Any]], seed: int) -> None:
        self._base, self._settings = base, settings
        self._chance = random.Random(seed)  # noqa: S311 - not a secret
        self._last = ""

    def way(self) -> Way:
        """Any of the ways."""
        return self._chance.choice(list(Way))

    def pause_s(self) -> float:
        """A short time in which nothing is reloaded."""
        return self._chance.uniform(0.0, 0.2)

    def draw(self) -> File:
        """A good file twice in three times."""
        while (file := self._chance.choice([self._good, self._good, self._bad])()).refused == self._last != "":
            pass
        self._last = file.refused or self._last
        return file

    def _good(self) -> File:
        chosen = self._chosen()
        return File(", ".join(chosen), document(self._with(chosen)).encode())

    def _bad(self) -> File:
        if self._chance.random() < 0.3:
            return self._chance.choice(NONSENSE)
        name, (spoil, words) = self._chance.choice(list(BAD.items()))
        sections = self._with({})
        spoil(sections)
        return File(name, document(sections).encode(), words)

    def _chosen(self) -> dict[str, Any]:
        paths = self._chance.sample(list(self._settings), self._chance.randint(1, 4))
        return {path: self._chance.choice(self._settings[path]) for path in paths}

    def _with(self, chosen: Mapping[str, Any]) -> Sections:
        sections = copy.deepcopy(self._base)
        if chosen.get("adapt.method") == "cotta":
            sections["adapt"]["options"] = {"views": 2}  # with 32 it cannot keep up with the load
        for path, value in chosen.items():
            section, _, name = path.partition(".")
            sections.setdefault(section, {})[name] = value
        return sections
