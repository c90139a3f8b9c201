"""The folder of a Hugging Face image classifier: config.json, weights in safetensors, and how images were prepared.

The library's own code builds the network; code that the folder brings along is never run, and nothing is downloaded.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import transformers
from torch import Tensor, nn

from tta_daemon.control.sections import Model
from tta_daemon.errors import ConfigError
from tta_daemon.model.brought import Brought, Triple

SETTING = "model.artifact"
LARGEST_CONFIG = 16 << 20
REMEDY = "save the model with save_pretrained(folder), which writes config.json and model.safetensors"

_CODE = ("auto_map", "trust_remote_code", "custom_pipelines", "quantization_config")
_ATTENTION = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")


class Logits(nn.Module):
    """A model of the library that answers with its logits alone; some were trained on blue, green, red."""

    def __init__(self, inner: nn.Module, *, backward: bool) -> None:
        super().__init__()
        self.inner, self.backward_colors = inner, backward

    def forward(self, images: Tensor) -> Tensor:
        """Logits, N x C."""
        given = images.flip(1) if self.backward_colors else images
        return cast("Tensor", self.inner(pixel_values=given).logits)


def read(path: Path, _: Model) -> Brought:
    """The network in a folder.

    Raises:
        ConfigError: files are missing or broken, the model is no image classifier, or it needs code of its own.
    """
    said = _json(path / "config.json")
    prepared = _json(path / "preprocessor_config.json") if (path / "preprocessor_config.json").exists() else {}
    _refuse_code(path, said, prepared)
    network = Logits(_network(path), backward=bool(prepared.get("do_flip_channel_order")))
    size = _cropped(prepared) or _pair(prepared.get("size")) or _pair(said.get("image_size"))
    mean, std = _normalization(path, prepared) if prepared else (None, None)
    return Brought(network, path.resolve().name, SETTING, _labels(said), size, mean, std)


def _refuse_code(path: Path, *files: Mapping[str, Any]) -> None:
    """Whatever would make the library run what is not its own, or fetch something."""
    for said in files:
        asked = [key for key in _CODE if said.get(key)]
        asked += [key for key in _ATTENTION if "/" in str(said.get(key, ""))]
        if asked:
            message = f"{path} asks for code that is not the library's own ({', '.join(asked)}), which is never run"
            remedy = "use a model of the library, or say model.factory for a network of your own"
            raise ConfigError(SETTING, message, remedy)
    if (path / "adapter_config.json").exists():
        raise ConfigError(
            SETTING, f"{path} holds an adapter, not a whole model", "merge it into its model, and save that"
        )


def _network(path: Path) -> nn.Module:
    if not list(path.glob("*.safetensors")):
        message = f"{path} holds no .safetensors, and pickled weights are never read"
        raise ConfigError(SETTING, message, REMEDY)
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        made, report = transformers.AutoModelForImageClassification.from_pretrained(
            path, local_files_only=True, trust_remote_code=False, use_safetensors=True, output_loading_info=True
        )
    except Exception as fault:
        words = " ".join(str(fault).split())[:300]
        message = f"{path} holds no image classifier that can be read: {type(fault).__name__}: {words}"
        raise ConfigError(SETTING, message, REMEDY) from fault
    finally:
        transformers.logging.set_verbosity(before)
    lacking = sorted(str(key) for kind in ("missing_keys", "mismatched_keys") for key in report.get(kind, ()))
    if lacking:
        message = f"{path} lacks the weights {', '.join(lacking[:3])}, so it was not trained as an image classifier"
        raise ConfigError(SETTING, message, "train and save it as one, head included")
    return cast("nn.Module", made)


def _json(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            held = json.loads(file.read(LARGEST_CONFIG))
    except FileNotFoundError as fault:
        raise ConfigError(SETTING, f"{path.parent} holds no {path.name}", REMEDY) from fault
    except (OSError, ValueError, RecursionError) as fault:
        raise ConfigError(SETTING, f"{path} cannot be read: {fault}", REMEDY) from fault
    if not isinstance(held, dict):
        raise ConfigError(SETTING, f"{path} holds no table", REMEDY)
    return held


def _labels(said: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The names of the classes, where they are more than numbers."""
    held = said.get("id2label")
    if not isinstance(held, dict) or sorted(held) != sorted(map(str, range(len(held)))):
        return None
    names = tuple(str(held[str(number)]) for number in range(len(held)))
    return None if names == tuple(f"LABEL_{number}" for number in range(len(names))) else names


def _cropped(prepared: Mapping[str, Any]) -> tuple[int, int] | None:
    return _pair(prepared.get("crop_size")) if prepared.get("do_center_crop") else None


def _pair(held: Any) -> tuple[int, int] | None:  # noqa: ANN401 - whatever JSON holds
    """Height and width: one number for both, two numbers, or a table of them."""
    if isinstance(held, dict):
        held = [held["height"], held["width"]] if {"height", "width"} <= set(held) else held.get("shortest_edge")
    each = held if isinstance(held, list) else [held, held]
    good = len(each) == 2 and all(isinstance(size, int) and 0 < size <= 1 << 14 for size in each)  # noqa: PLR2004 - a pair
    return (each[0], each[1]) if good else None


def _normalization(path: Path, prepared: Mapping[str, Any]) -> tuple[Triple, Triple]:
    """Mean and std for images in [0, 1]: the library counts from 0 to 255, and scales that by a factor first."""
    factor = 255.0 * (prepared.get("rescale_factor", 1 / 255) if prepared.get("do_rescale", True) else 1.0)
    wanted = prepared.get("do_normalize", True)
    mean = _three(prepared.get("image_mean")) if wanted else (0.0, 0.0, 0.0)
    std = _three(prepared.get("image_std")) if wanted else (1.0, 1.0, 1.0)
    if mean is None or std is None or min(std) <= 0 or not factor or prepared.get("rescale_offset"):
        message = f"{path}/preprocessor_config.json prepares images in a way that is not read"
        raise ConfigError(SETTING, message, "take the file away, and say model.mean and model.std for images in [0, 1]")
    return _scaled(mean, factor), _scaled(std, factor)


def _scaled(values: Triple, factor: float) -> Triple:
    return values[0] / factor, values[1] / factor, values[2] / factor


def _three(held: Any) -> Triple | None:  # noqa: ANN401 - whatever JSON holds
    each = held if isinstance(held, list) else [held] * 3
    good = len(each) == 3 and all(isinstance(x, int | float) and math.isfinite(x) for x in each)  # noqa: PLR2004 - colors
    return (float(each[0]), float(each[1]), float(each[2])) if good else None
