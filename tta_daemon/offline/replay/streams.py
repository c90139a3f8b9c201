"""From a file of arrays or a folder of pictures to labeled images that can be sent in any order."""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tta_daemon.errors import ConfigError
from tta_daemon.offline.replay.values import PICTURES, Arrays, Chosen, Files, Indices, Values

EXPECTED = "expected are images (uint8, N x H x W x 3) and labels, and perhaps domain, severity and stream"


@dataclass(frozen=True)
class Stream:
    """Images, what each of them shows, and where it comes from.

    Attributes:
        domain: for each image, which of ``domains`` it belongs to; the domains stand in the order they first appear.
        severity: for each image how strong its corruption is, 0 for none; None where nobody knows.
        keys: for each image the key of its record; empty where records have none.
    """

    name: str
    values: Values
    labels: Indices
    domains: tuple[str, ...]
    domain: Indices
    severity: Indices | None = None
    keys: tuple[str, ...] = ()

    def __len__(self) -> int:
        """How many images."""
        return len(self.labels)

    def limited(self, most: int, seed: int) -> "Stream":
        """At most so many images of each domain, drawn by chance, in their order."""
        chance = np.random.default_rng([seed, 1])
        drawn = [chance.permutation(np.flatnonzero(self.domain == d))[:most] for d in range(len(self.domains))]
        return self.only(np.sort(np.concatenate(drawn)))

    def only(self, chosen: Indices) -> "Stream":
        """Some of the images."""
        return replace(
            self,
            values=Chosen(self.values, chosen),
            labels=self.labels[chosen],
            domain=self.domain[chosen],
            severity=None if self.severity is None else self.severity[chosen],
            keys=tuple(self.keys[i] for i in chosen) if self.keys else (),
        )


def read(path: Path, classes: Sequence[str]) -> Stream:
    """The stream of an .npz file or of a folder ``class/name.png`` (or ``domain/class/name.png``).

    Args:
        path: the file or the folder.
        classes: what the model calls its classes, in their order.

    Raises:
        ConfigError: it is neither, or what it holds is of no use; in words.
    """
    if path.is_dir():
        return _folder(path, classes)
    if not path.exists():
        raise ConfigError(str(path), "there is no such file or folder", "check the path")
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise ConfigError(str(path), f"cannot be read as .npz: {error}", EXPECTED) from error
    return _checked(path, arrays, classes)


def _checked(path: Path, arrays: dict[str, NDArray[Any]], classes: Sequence[str]) -> Stream:
    for name in ("images", "labels"):
        if name not in arrays:
            raise ConfigError(str(path), f"has no array {name!r}; it holds {', '.join(arrays)}", EXPECTED)
    images = arrays["images"]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:  # noqa: PLR2004 - N x H x W x 3
        raise ConfigError(str(path), f"its images are {images.dtype}, {images.shape}", EXPECTED)
    for name in ("labels", "domain", "severity", "stream"):
        if name in arrays and arrays[name].shape != images.shape[:1]:
            raise ConfigError(str(path), f"{len(images)} images, but {name} is {arrays[name].shape}", "one an image")
    domains, domain = _codes(arrays["domain"] if "domain" in arrays else np.full(len(images), "all"))
    return Stream(
        name=path.stem,
        values=Arrays(images),
        labels=_labels(path, arrays["labels"], classes),
        domains=domains,
        domain=domain,
        severity=arrays["severity"].astype(np.int64) if "severity" in arrays else None,
        keys=tuple(map(str, arrays["stream"])) if "stream" in arrays else (),
    )


def _folder(path: Path, classes: Sequence[str]) -> Stream:
    files = sorted(f for f in path.rglob("*") if f.suffix.lower() in PICTURES and not f.name.startswith("."))
    parts = [file.relative_to(path).parts[:-1] for file in files]
    depths = {len(part) for part in parts}
    if depths not in ({1}, {2}):
        found = f"{len(files)} pictures, at depths {sorted(depths)}" if files else "no picture"
        raise ConfigError(str(path), f"holds {found}", "lay it out as class/name.jpg, or domain/class/name.jpg")
    names = np.array([part[-1] for part in parts])
    domains, domain = _codes(np.array([part[0] if len(part) > 1 else "all" for part in parts]))
    return Stream(path.name, Files(files), _labels(path, names, classes), domains, domain)


def _codes(names: NDArray[Any]) -> tuple[tuple[str, ...], Indices]:
    """The different names, in the order they first appear, and which of them stands where."""
    found, first, codes = np.unique(names, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return tuple(str(found[i]) for i in order), np.argsort(order)[codes].astype(np.int64)


def _labels(path: Path, given: NDArray[Any], classes: Sequence[str]) -> Indices:
    """Class numbers: as given, or found by the model's names of the classes, or by the names' own order."""
    if given.dtype.kind not in "iu":
        names = [str(name) for name in given]
        different = sorted(set(names))
        known = {name: number for number, name in enumerate(classes)}
        if not set(different) <= set(known) and all(name.isdecimal() for name in different):
            known = {name: int(name) for name in different}
        elif not set(different) <= set(known) and len(different) == len(classes):
            known = {name: number for number, name in enumerate(different)}
        if strange := [name for name in different if name not in known]:
            message = f"the model knows no class {strange[0]!r}; it knows {', '.join(list(classes)[:5])}, ..."
            raise ConfigError(str(path), message, "use these names or the classes' numbers, or set model.labels")
        given = np.array([known[name] for name in names])
    labels = given.astype(np.int64)
    if len(labels) == 0 or labels.min() < 0 or labels.max() >= len(classes):
        found = f"labels from {labels.min()} to {labels.max()}" if len(labels) else "no image"
        raise ConfigError(str(path), f"{found}, and the model has {len(classes)} classes", "is it the right model?")
    return labels
