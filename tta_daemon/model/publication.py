"""One state of what was learned, as the inference service next door gets it: tensors, and where they are from."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

FORMAT = "tta-daemon adapter 1"
LATEST = "latest.json"
"""The manifest of the newest publication; it appears when all that it names is there."""

LARGEST_VERSION = (1 << 31) - 1
"""Of an `.onnx_adapter`, whose version is a signed number of 32 bits."""


@dataclass(frozen=True, slots=True, eq=False)
class Publication:
    """What a service needs to answer as the adapted model does.

    Attributes:
        stream: whose state it is; empty where all records share one.
        version: higher than that of any before.
        tensors: by the names of the deployed network.
        about: model, method, step, time and what the guard says of it.
    """

    stream: str
    version: int
    tensors: Mapping[str, Tensor]
    about: Mapping[str, Any]

    @property
    def manifest(self) -> dict[str, Any]:
        """All but the tensors."""
        return {"format": FORMAT, "version": self.version, "stream": self.stream, **self.about}

    def safetensors(self) -> bytes:
        """A safetensors file, the manifest in its metadata."""
        ready = {name: tensor.detach().float().cpu().contiguous() for name, tensor in self.tensors.items()}
        return save(ready, {"manifest": json.dumps(self.manifest, sort_keys=True)})

    def onnx_adapter(self, path: Path) -> None:
        """Write a file that ONNX Runtime loads as a ``LoraAdapter``, for the graph of ``tta-daemon export --open``."""
        from onnxruntime import AdapterFormat, OrtValue  # noqa: PLC0415 - an extra brings it

        given = AdapterFormat()
        given.set_adapter_version(min(self.version, LARGEST_VERSION))
        given.set_model_version(1)
        values = {name: t.detach().float().cpu().contiguous().numpy() for name, t in self.tensors.items()}
        given.set_parameters({name: OrtValue.ortvalue_from_numpy(value) for name, value in values.items()})
        given.export_adapter(str(path))

    def writers(self, formats: Sequence[str]) -> dict[str, Callable[[Path], object]]:
        """What writes the file of each format, by its suffix."""
        known: dict[str, Callable[[Path], object]] = {
            "safetensors": lambda path: path.write_bytes(self.safetensors()),
            "onnx_adapter": self.onnx_adapter,
        }
        return {name: known[name] for name in formats}


def described(path: Path) -> dict[str, Any]:
    """What a manifest says of a file."""
    blob = path.read_bytes()
    return {"sha256": hashlib.sha256(blob).hexdigest(), "bytes": len(blob)}
