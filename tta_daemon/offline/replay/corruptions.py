"""Clean images seen through bad weather, bad lenses and bad wires: the fifteen corruptions of ImageNet-C, made here."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tta_daemon.errors import ConfigError
from tta_daemon.offline.replay.streams import Stream
from tta_daemon.offline.replay.values import Arrays, Indices, Pixels, Value

KINDS = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
CLEAN = "clean"
SEVERITIES = (1, 2, 3, 4, 5)
SMALLEST = 32
"""The library corrupts no image smaller than this."""


class Corrupted:
    """Images in several corruptions, made when they are `made` and kept in a temporary file, gone with this object.

    Args:
        clean: an image of the stream, H x W x 3, of the model's size.
        size: height and width of that.
        images: for each value its clean image.
        kinds: for each value its corruption.
        severities: for each value its severity.
        seed: of the noise; an image gets the same noise whatever else is asked for.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - the columns of one table
        self,
        clean: Callable[[int], Pixels],
        size: tuple[int, int],
        images: Indices,
        kinds: Sequence[str],
        severities: Indices,
        seed: int,
    ) -> None:
        self._corrupt = _library()
        self._clean, self._images, self._kinds, self._severities = clean, images, kinds, severities
        self._seed = seed
        with tempfile.TemporaryFile(prefix="tta-replay-") as file:  # lives on for as long as it is mapped
            self._pixels: Pixels = np.memmap(file, np.uint8, "w+", shape=(len(images), *size, 3))
        self._values = Arrays(self._pixels)
        self._done = np.zeros(len(images), bool)

    def __len__(self) -> int:
        """How many values."""
        return len(self._images)

    def __getitem__(self, index: int) -> Value:
        """One of them; made now if it was not."""
        self.make(index)
        return self._values[index]

    def make(self, index: int) -> None:
        """Corrupt one image, unless that was done."""
        if self._done[index]:
            return
        image, kind, severity = int(self._images[index]), self._kinds[index], int(self._severities[index])
        pixels = self._clean(image)
        if kind != CLEAN:
            seed = np.random.SeedSequence([self._seed, 3, image, KINDS.index(kind), severity]).generate_state(1)[0]
            pixels = self._corrupt(pixels, kind, severity, int(seed))
        self._pixels[index] = pixels
        self._done[index] = True


def corrupted(  # noqa: PLR0913, PLR0917 - what, how, and how much
    stream: Stream,
    kinds: Sequence[str],
    severities: Sequence[int],
    clean: Callable[[Value], Pixels],
    size: tuple[int, int],
    seed: int,
) -> Stream:
    """Every image of ``stream`` in every kind and severity: the kinds become the domains.

    Args:
        stream: clean images.
        kinds: of `KINDS`, or `CLEAN`.
        severities: from 1 to 5; `CLEAN` has none.
        clean: from a record's value to pixels of the model's size, as the daemon would see them.
        size: the model's height and width.
        seed: of the noise.
    """
    if min(size) < SMALLEST:
        message = f"the images are {size[0]} x {size[1]}, and the corruptions begin at {SMALLEST} x {SMALLEST}"
        raise ConfigError("--corrupt", message, "give a stream that is corrupted already")
    table = [(d, s) for d, kind in enumerate(kinds) for s in ((0,) if kind == CLEAN else severities)]
    count = len(stream)
    domain = np.repeat([d for d, _ in table], count)
    severity = np.repeat([s for _, s in table], count)
    images = np.tile(np.arange(count), len(table))
    names = [kinds[d] for d in domain]
    values = Corrupted(lambda image: clean(stream.values[image]), size, images, names, severity, seed)
    return replace(
        stream,
        values=values,
        labels=np.tile(stream.labels, len(table)),
        domains=tuple(kinds),
        domain=domain,
        severity=severity,
        keys=stream.keys * len(table),
    )


def chosen(text: str) -> tuple[str, ...]:
    """The kinds that the command line names: ``all`` is the clean images and all fifteen.

    >>> chosen("clean,fog")
    ('clean', 'fog')
    """
    if text == "all":
        return (CLEAN, *KINDS)
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in (CLEAN, *KINDS):
            raise ConfigError("--corrupt", f"there is no {name!r}", f"all, or some of: {', '.join((CLEAN, *KINDS))}")
    return names


def strengths(text: str) -> tuple[int, ...]:
    """The severities that the command line names.

    >>> strengths("5"), strengths("1-5"), strengths("1,3")
    ((5,), (1, 2, 3, 4, 5), (1, 3))
    """
    try:
        low, _, high = text.partition("-")
        found = tuple(range(int(low), int(high) + 1)) if high else tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not set(found) <= set(SEVERITIES):
        raise ConfigError("--severity", f"{text!r} is no severity", "1 to 5, as in 5, 1-5 or 1,3")
    return found


def _library() -> Callable[[Pixels, str, int, int], Pixels]:
    try:
        import imagecorruptions  # noqa: PLC0415 - an extra, and two seconds to import
    except ImportError as error:
        message, remedy = f"the corruptions cannot be imported: {error}", "pip install 'tta-daemon[replay]'"
        if "lib" in str(error):
            remedy = "their OpenCV wants a system library: apt install libgl1 libxcb1"
        raise ConfigError("--corrupt", message, remedy) from error

    def corrupt(pixels: Pixels, kind: str, severity: int, seed: int) -> Pixels:
        own = {"seed": seed} if kind in {"impulse_noise", "glass_blur"} else {}  # these two do not ask numpy
        before: Any = np.random.get_state()  # noqa: NPY002 - the library draws from numpy's global generator
        np.random.seed(seed)  # noqa: NPY002
        try:
            seen: Pixels = imagecorruptions.corrupt(pixels, severity, kind, **own)
        finally:
            np.random.set_state(before)  # noqa: NPY002
        return seen

    return corrupt
