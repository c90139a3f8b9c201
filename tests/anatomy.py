"""What a daemon is made of, attribute by attribute, so that two of them can be compared."""

import enum
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

OURS = ("tta_daemon.", "adapters.")
PLAIN = (bool, int, float, str, bytes, enum.Enum, Path, torch.dtype, torch.device, torch.Size)
APART = {"slot", "board", "metrics", "source", "sink", "errands"}
"""Parts that say what has happened, or that stay whatever the settings are."""


def anatomy(root: object) -> dict[str, object]:
    """Every plain value in an object of ours and in the objects that it holds, by its path; moments left out."""
    return dict(_values(root, "", set()))


def _values(thing: Any, path: str, seen: set[int]) -> Iterator[tuple[str, object]]:
    if thing is None or isinstance(thing, PLAIN):
        yield path, thing
        return
    if isinstance(thing, torch.Tensor):
        yield path, (thing.dtype, thing.shape, float(thing.detach().double().sum()))
        return
    if isinstance(thing, dict):
        parts = ((f"[{key}]", value) for key, value in thing.items() if isinstance(key, str))
    elif isinstance(thing, list | tuple):
        parts = ((f"[{at}]", value) for at, value in enumerate(thing))
    elif type(thing).__module__.startswith(OURS) and id(thing) not in seen:
        seen.add(id(thing))
        parts = ((f".{name}", value) for name, value in _attributes(thing) if _lasts(name))
    else:
        return
    for name, part in parts:
        yield from _values(part, path + name, seen)


def _attributes(thing: object) -> Iterator[tuple[str, Any]]:
    slots = (name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ()))
    for name in dict.fromkeys([*getattr(thing, "__dict__", {}), *slots]):
        if not name.startswith("__") and hasattr(thing, name):
            yield name, getattr(thing, name)


def _lasts(name: str) -> bool:
    return name not in APART and not name.endswith("_at")
