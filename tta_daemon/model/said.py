"""What a file says of itself beside its network: texts by name, each JSON."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tta_daemon.errors import ConfigError

if TYPE_CHECKING:
    from tta_daemon.model.brought import Triple


def about(said: Mapping[str, str], path: Path) -> dict[str, Any]:
    """Labels, mean and std, as far as a file says them, by their names in `Brought`.

    Raises:
        ConfigError: nothing can be divided by what it says.
    """
    mean, std = listed(said, "mean", 3), listed(said, "std", 3)
    if std is not None and min(std) <= 0:
        raise ConfigError("model.std", f"{path} says {list(std)}, by which nothing can be divided", "say it here")
    return {"labels": _labels(said), "mean": cast("Triple | None", mean), "std": cast("Triple | None", std)}


def _labels(said: Mapping[str, str]) -> tuple[str, ...] | None:
    """A JSON list of names, or a JSON object from class to name."""
    for key in ("labels", "names", "id2label"):
        held = _json(said, key)
        if isinstance(held, dict) and sorted(held) == sorted(map(str, range(len(held)))):
            held = [held[str(number)] for number in range(len(held))]
        if isinstance(held, list) and held and all(isinstance(name, str) for name in held):
            return tuple(held)
    return None


def listed(said: Mapping[str, str], key: str, count: int) -> tuple[float, ...] | None:
    """So many numbers; None where the file does not say them."""
    held = _json(said, key)
    good = isinstance(held, list) and len(held) == count and all(isinstance(x, int | float) for x in held)
    return tuple(held) if good and all(math.isfinite(x) for x in held) else None


def _json(said: Mapping[str, str], key: str) -> Any:  # noqa: ANN401 - whatever JSON holds
    try:
        return json.loads(said[key])
    except (KeyError, ValueError, RecursionError):
        return None
