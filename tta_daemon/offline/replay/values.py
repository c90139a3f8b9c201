"""Images as records carry them: bytes, made when they are sent."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

Pixels: TypeAlias = NDArray[np.uint8]
Indices: TypeAlias = NDArray[np.int64]

PICTURES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}
NPY = "application/x-npy"


class Value(NamedTuple):
    """What a record holds: bytes, and what they are."""

    kind: str
    data: bytes


class Values(Protocol):
    """Images as records carry them."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, index: int, /) -> Value:
        """One of them."""


class Arrays:
    """Pixels, N x H x W x 3, each image sent as an npy of its own; they share one header."""

    def __init__(self, images: Pixels) -> None:
        self.images = images
        self._header = npy_header(images.shape[1:])

    def __len__(self) -> int:
        """How many images."""
        return len(self.images)

    def __getitem__(self, index: int) -> Value:
        """The image's npy."""
        return Value(NPY, self._header + self.images[index].tobytes())


class Files:
    """Pictures, sent as they lie in their files."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)

    def __len__(self) -> int:
        """How many files."""
        return len(self._paths)

    def __getitem__(self, index: int) -> Value:
        """The file's bytes."""
        path = self._paths[index]
        return Value(PICTURES[path.suffix.lower()], path.read_bytes())


class Chosen:
    """Some of other values."""

    def __init__(self, values: Values, indices: Indices) -> None:
        self._values, self._indices = values, indices

    def __len__(self) -> int:
        """How many."""
        return len(self._indices)

    def __getitem__(self, index: int) -> Value:
        """One of them."""
        return self._values[int(self._indices[index])]


def npy_header(shape: tuple[int, ...]) -> bytes:
    """What stands before the pixels of one image in an npy."""
    written = io.BytesIO()
    npy_format.write_array_header_1_0(written, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return written.getvalue()
