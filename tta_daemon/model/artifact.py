"""An artifact as production serves it: which kind it is, and who reads it."""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

from tta_daemon.control.sections import Model
from tta_daemon.errors import ConfigError
from tta_daemon.model.brought import Brought

_READERS: Mapping[str, tuple[str, str]] = {
    ".onnx": ("onnx_file", "onnx"),
    ".pt2": ("exported", ""),
    "": ("huggingface", "huggingface"),
}
"""By suffix, a folder having none: the module beside this one that reads it, and the extra that it needs."""


def read(model: Model) -> Brought:
    """The network in ``model.artifact``.

    Raises:
        ConfigError: it is not there, is of no known kind, is broken, or would execute code.
    """
    path = Path(model.artifact or "")
    if not path.exists():
        raise ConfigError(
            "model.artifact", f"{path} does not exist", "check the path; it is relative to the config file"
        )
    kind = "" if path.is_dir() else path.suffix.lower()
    if kind not in _READERS or (path.is_file() and not kind):
        message = f"{path} is no .onnx, no .pt2 and no folder of a Hugging Face model"
        remedy = "export the model to one of these; for .safetensors and .pt say model.factory and model.weights"
        raise ConfigError("model.artifact", message, remedy)
    name, extra = _READERS[kind]
    try:
        reader = importlib.import_module(f"tta_daemon.model.{name}")
    except ImportError as fault:
        missing = f"{fault.name} is missing, which reads {path.name}"
        raise ConfigError("model.artifact", missing, f"pip install 'tta-daemon[{extra}]'") from fault
    return cast("Callable[[Path, Model], Brought]", reader.read)(path, model)
