"""Records that cannot be answered, as they turn up in real topics, each with the reason its dead letter must give."""

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image

from tta_daemon.errors import Reason

PNG, NPY = "image/png", "application/x-npy"


class Value(NamedTuple):
    """What a record carries, and what its `content-type` header says that it is."""

    content: bytes | None
    content_type: str


class Spoiled(NamedTuple):
    """A record that must be rejected, and the reason that its dead letter must give."""

    value: Value
    reason: Reason


def png(image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    """Encode an image, H x W x 3."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def truncated_png() -> Spoiled:
    """An upload that broke off."""
    whole = png(np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8))
    return Spoiled(Value(whole[: len(whole) // 2], PNG), Reason.UNDECODABLE)


def wrong_channels() -> Spoiled:
    """Five channels, from some other kind of camera."""
    return Spoiled(Value(_npy(np.zeros((28, 28, 5), np.uint8)), NPY), Reason.WRONG_CHANNELS)


def nan_npy() -> Spoiled:
    """A pixel that is not a number."""
    image = np.full((1, 3, 28, 28), 0.5, np.float32)
    image[0, 1, 14, 14] = np.nan
    return Spoiled(Value(_npy(image), NPY), Reason.NON_FINITE)


@cache
def decompression_bomb(side: int = 20_000) -> Spoiled:
    """A few kilobytes that unfold into 400 million pixels."""
    row = bytes(1 + side // 8)
    squeeze = zlib.compressobj(9)
    pixels = b"".join(squeeze.compress(row) for _ in range(side)) + squeeze.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)  # one bit a pixel
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")
    return Spoiled(Value(b"\x89PNG\r\n\x1a\n" + chunks, PNG), Reason.DECOMPRESSION_BOMB)


def unknown_content_type() -> Spoiled:
    """Not an image at all."""
    return Spoiled(Value(b"ftypmp42", "video/mp4"), Reason.UNKNOWN_CONTENT_TYPE)


def empty_value() -> Spoiled:
    """A tombstone."""
    return Spoiled(Value(None, PNG), Reason.EMPTY_VALUE)


def pickled_npy() -> Spoiled:
    """An array of Python objects: reading it would run whatever code it brings."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"harmless": True}], dtype=object), allow_pickle=True)
    return Spoiled(Value(buffer.getvalue(), NPY), Reason.PICKLED)


KINDS: Mapping[str, Callable[[], Spoiled]] = {
    "truncated PNG": truncated_png,
    "wrong channels": wrong_channels,
    "NaN in an npy": nan_npy,
    "decompression bomb": decompression_bomb,
    "unknown content type": unknown_content_type,
    "empty value": empty_value,
    "pickled npy": pickled_npy,
}


def _npy(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
