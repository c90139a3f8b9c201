"""Images of the source domain, as `prepare` is given them: an .npz file, or a folder of one folder a class."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from tta_daemon.errors import ConfigError

SETTING = "--source"
PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


@dataclass(frozen=True, slots=True)
class SourceImages:
    """Images, uint8 N x 3 x H x W, their labels, N, where there are any, and a digest of both."""

    pixels: Tensor
    labels: Tensor | None
    digest: str

    def __len__(self) -> int:
        """How many."""
        return len(self.pixels)

    def floats(self, picked: Tensor | slice) -> Tensor:
        """Some of the images in [0, 1]."""
        return self.pixels[picked].float() / 255


def read(path: Path, size: Sequence[int], names: Sequence[str], *, labeled: bool = True) -> SourceImages:
    """Read source images.

    Args:
        path: an .npz with ``images`` (uint8 N x H x W x 3) and, if any, ``labels``; or a folder CLASS/PICTURE.
        size: height and width that the model expects.
        names: of its classes, in order.
        labeled: whether to use the labels that are there.

    Raises:
        ConfigError: the data are not what they should be, in words.
    """
    pixels, labels = _folder(path, names) if path.is_dir() else _npz(path)
    if pixels.ndim != 4 or pixels.shape[3] != 3 or pixels.dtype != np.uint8 or not len(pixels):  # noqa: PLR2004 - N x H x W x 3
        message = f"{path.name} holds {pixels.dtype} of shape {pixels.shape}"
        raise ConfigError(SETTING, message, "images are uint8, N x H x W x 3")
    if tuple(pixels.shape[1:3]) != tuple(size):
        message = f"the images are {pixels.shape[1]} x {pixels.shape[2]}, but model.input_size is {tuple(size)}"
        raise ConfigError(SETTING, message, "resize them as production does")
    sha = hashlib.sha256(np.ascontiguousarray(pixels).tobytes())
    images = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    if labels is None or not labeled:
        return SourceImages(images, None, sha.hexdigest())
    if labels.shape != (len(pixels),) or not np.issubdtype(labels.dtype, np.integer):
        raise ConfigError(SETTING, f"labels of shape {labels.shape} and type {labels.dtype}", "one integer an image")
    if labels.min() < 0 or labels.max() >= len(names):
        raise ConfigError(SETTING, f"labels from {labels.min()} to {labels.max()}", f"there are {len(names)} classes")
    sha.update(labels.astype(np.int64).tobytes())
    return SourceImages(images, torch.from_numpy(labels.astype(np.int64)), sha.hexdigest())


def _npz(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None]:
    try:
        with np.load(path, allow_pickle=False) as held:
            if "images" not in held:
                raise ConfigError(SETTING, f"{path.name} holds {', '.join(held)}", 'the array must be called "images"')
            return held["images"], held["labels"] if "labels" in held.files else None
    except FileNotFoundError as fault:
        raise ConfigError(SETTING, f"{path} does not exist", "name an .npz file or a folder") from fault
    except (OSError, ValueError, TypeError) as fault:
        raise ConfigError(SETTING, f"{path.name} is no .npz file: {fault}", "name an .npz file or a folder") from fault


def _folder(path: Path, names: Sequence[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    classes = sorted(folder for folder in path.iterdir() if folder.is_dir())
    numbers = {name: number for number, name in enumerate(names)}
    pictures: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    for folder in classes:
        if folder.name not in numbers:
            raise ConfigError(
                SETTING, f"the folder {folder.name!r} is no class", f"there are: {', '.join(names)[:200]}"
            )
        for file in sorted(f for f in folder.iterdir() if f.suffix.lower() in PICTURES):
            try:
                with Image.open(file) as picture:
                    pictures.append(np.asarray(picture.convert("RGB")))
            except (UnidentifiedImageError, OSError) as fault:
                raise ConfigError(SETTING, f"{file} cannot be read: {fault}", "remove or repair it") from fault
            labels.append(numbers[folder.name])
    if not pictures:
        raise ConfigError(SETTING, f"{path} holds no pictures", "one folder a class, pictures within")
    if len({picture.shape for picture in pictures}) > 1:
        raise ConfigError(SETTING, "the pictures differ in size", "resize them as production does")
    return np.stack(pictures), np.array(labels, dtype=np.int64)
