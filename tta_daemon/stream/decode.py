"""From a record's bytes to images of the model's size; whatever is wrong with them is a reason to reject the record."""

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from tta_daemon.errors import Reason, RecordRejected
from tta_daemon.stream import inference_protocol, npy
from tta_daemon.stream.records import LONGEST_ID, Images, Record, Sample

By = Literal["none", "partition", "key"]
Resize = Literal["refuse", "stretch", "crop"]

MAGIC = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"\x93NUMPY": "application/x-npy",
}
PICTURES = {"image/png": "PNG", "image/jpeg": "JPEG", "image/jpg": "JPEG", "image/webp": "WEBP"}
LONGEST_STREAM = 100

JPEG_SCAN, MOST_SCANS = b"\xff\xda", 100
"""What a scan begins with; a progressive JPEG has about ten, and each takes as long as a whole picture."""
PNG_BIT_DEPTH, BITS = 24, 8


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a record may hold, and what size its images must have or get."""

    size: tuple[int, int]
    resize: Resize = "refuse"
    max_bytes: int = 16 << 20
    max_pixels: int = 32_000_000
    max_images: int = 256


class Decoder:
    """Decodes records, several at once. Raises and returns nothing but samples and `RecordRejected`.

    Args:
        bounds: the limits.
        by: which records share a stream: all of them, those of a partition, or those of a key.
        threads: how many decode at once.
    """

    def __init__(self, bounds: Bounds, by: By = "none", threads: int = 2) -> None:
        self._bounds = bounds
        self._by = by
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    def decode_all(self, records: Sequence[Record]) -> list[Sample | RecordRejected]:
        """A sample or a rejection for each record, in their order."""
        if len(records) <= 1:
            return [self._tried(record) for record in records]
        return list(self._pool.map(self._tried, records))

    def decode(self, record: Record) -> Sample:
        """The record's images.

        Raises:
            RecordRejected: with the reason, whatever the bytes are.
        """
        value = record.value
        if record.fault:
            raise RecordRejected(Reason.UNDECODABLE, f"no Kafka record: {record.fault}")
        if not value:
            raise RecordRejected(Reason.EMPTY_VALUE, "the record has no value")
        if len(value) > self._bounds.max_bytes:
            allowed = f"input.max_bytes is {self._bounds.max_bytes}"
            raise RecordRejected(Reason.TOO_LARGE, f"{len(value)} bytes; {allowed}")
        if len(record.id) > LONGEST_ID:
            raise RecordRejected(Reason.TOO_LARGE, f"an id of {len(record.id)} letters; {LONGEST_ID} are taken")
        kind = content_type(record)
        try:
            images = self._checked(self._reader(kind)(value, record))
            home = None if self._by == "none" else record.position.partition
            return Sample(record, self._stream(record), images, home=home)
        except RecordRejected:
            raise
        except Exception as error:  # the border: foreign decoders raise what they like
            raise RecordRejected(Reason.UNDECODABLE, f"{kind}: {type(error).__name__}: {error}") from error

    def close(self) -> None:
        """End the pool."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _tried(self, record: Record) -> Sample | RecordRejected:
        try:
            return self.decode(record)
        except RecordRejected as fault:
            return fault

    def _reader(self, kind: str) -> Callable[[bytes, Record], Images]:
        if kind in PICTURES:
            return lambda value, _: picture(value, PICTURES[kind], self._bounds)
        readers: Mapping[str, Callable[[bytes, Record], Images]] = {
            "application/x-npy": lambda value, _: npy.images(value, self._bounds.max_images, self._bounds.max_pixels),
            "application/json": lambda value, record: inference_protocol.images(
                value, record, self._bounds.max_images, self._bounds.max_pixels
            ),
        }
        if kind not in readers:
            known = ", ".join([*PICTURES, *readers])
            raise RecordRejected(Reason.UNKNOWN_CONTENT_TYPE, f"{kind or 'none given'}; understood are {known}")
        return readers[kind]

    def _stream(self, record: Record) -> str:
        if self._by == "partition":
            return f"{record.position.partition.topic}-{record.position.partition.number}"
        if self._by == "key":
            return stream_of(record.key or b"")
        return ""

    def _checked(self, images: Images) -> Images:
        """N x 3 x H x W of the model's size, every value finite and in range."""
        if not 1 <= len(images) <= self._bounds.max_images:
            allowed = f"input.max_images is {self._bounds.max_images}"
            raise RecordRejected(Reason.TOO_MANY_IMAGES, f"{len(images)} images in a record; {allowed}")
        if images.dtype != np.uint8:
            if not np.isfinite(images).all():
                raise RecordRejected(Reason.NON_FINITE, "the images hold NaN or infinity")
            if images.min() < 0.0 or images.max() > 1.0:
                found = f"{images.min():g} to {images.max():g}"
                raise RecordRejected(Reason.OUT_OF_RANGE, f"float images must lie in [0, 1], not {found}")
        if images.shape[2:] == self._bounds.size:
            return images
        if self._bounds.resize == "refuse" or images.dtype != np.uint8:
            raise RecordRejected(Reason.WRONG_SHAPE, self._misfit(images.shape[2:]))
        pictures = [Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))) for image in images]
        return np.stack([_channels_first(resized(image, self._bounds)) for image in pictures])

    def _misfit(self, found: tuple[int, ...]) -> str:
        wanted = "x".join(map(str, self._bounds.size))
        return f"{'x'.join(map(str, found))} pixels; the model sees {wanted}, and input.resize does not make it fit"


def content_type(record: Record) -> str:
    """What the record says it is, without parameters; else what its first bytes say; else empty."""
    said = (record.header("content-type") or "").partition(";")[0].strip().lower()
    if said:
        return said
    value = record.value or b""
    if value[:4] == b"RIFF" and value[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for magic, kind in MAGIC.items() if value.startswith(magic)), "")


def stream_of(key: bytes) -> str:
    """A key as the name of a stream: its text, or a digest of it where that is no short text."""
    try:
        name = key.decode("utf-8")
    except UnicodeDecodeError:
        name = ""
    plain = len(name) <= LONGEST_STREAM and (name.isprintable() if name else not key)
    return name if plain else f"key-{hashlib.sha256(key).hexdigest()[:16]}"


def picture(value: bytes, form: str, bounds: Bounds) -> NDArray[np.uint8]:
    """One encoded picture as 1 x 3 x H x W; its size is looked at before its pixels are decoded."""
    try:
        image = Image.open(io.BytesIO(value), formats=[form])
        if image.width * image.height > bounds.max_pixels:
            found = f"{image.width} x {image.height} pixels; input.max_pixels is {bounds.max_pixels}"
            raise RecordRejected(Reason.DECOMPRESSION_BOMB, found)
        if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:  # MPO: a phone's JPEG with a preview behind it
            raise RecordRejected(Reason.ANIMATED, f"{form} with {getattr(image, 'n_frames', 0)} frames")
        if form == "PNG" and value[PNG_BIT_DEPTH] > BITS:  # Pillow would drop the lower bits without a word
            raise RecordRejected(Reason.WRONG_CHANNELS, "16-bit PNG; understood are 8-bit RGB, gray and palette")
        if form == "JPEG" and value.count(JPEG_SCAN) > MOST_SCANS:
            found = f"more than {MOST_SCANS} scans: each is as much work as a picture"
            raise RecordRejected(Reason.DECOMPRESSION_BOMB, found)
        image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RecordRejected(Reason.DECOMPRESSION_BOMB, str(error)) from error
    except (UnidentifiedImageError, OSError, SyntaxError, EOFError) as error:
        raise RecordRejected(Reason.UNDECODABLE, f"{form}: {error}") from error
    rgb = _rgb(upright(image))
    if (rgb.height, rgb.width) != bounds.size and bounds.resize != "refuse":
        rgb = resized(rgb, bounds)
    return _channels_first(rgb)[None]


def upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF orientation says; a broken EXIF says nothing."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # noqa: BLE001 - the pixels are fine
        return image


def resized(image: Image.Image, bounds: Bounds) -> Image.Image:
    """Stretched to the model's size, or the middle of it after the shorter side was fitted; bilinear."""
    height, width = bounds.size
    if bounds.resize == "crop":
        return ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info:
        alpha = image.convert("RGBA").getchannel("A")
        if alpha.getextrema()[0] != 255:  # noqa: PLR2004 - opaque
            raise RecordRejected(Reason.WRONG_CHANNELS, f"{image.mode} with transparent pixels")
        return image.convert("RGBA").convert("RGB")
    if image.mode in {"L", "1", "P"}:
        return image.convert("RGB")
    raise RecordRejected(Reason.WRONG_CHANNELS, f"{image.mode} pixels; understood are 8-bit RGB, gray and palette")


def _channels_first(image: Image.Image) -> NDArray[np.uint8]:
    return np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))
