"""A few of the newest images with their answers, for a person to look at; none unless that is switched on."""

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tta_daemon.stream.records import Batch, Images, Prediction
from tta_daemon.watch.accuracy import Label

EACH_S = 2.0
"""Time between two looks at the stream: pictures are to be looked at, not to flicker."""

AT_ONCE = 4
"""Pictures taken at one look."""

LATE = 4 * AT_ONCE
"""Pictures kept beyond those that are shown, for whoever has just been told of them."""

SIDE = 96
"""Pixels of a picture's longer side, at most."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image, 3 x H x W as it was decoded, with what was answered and what it truly shows, once that is known."""

    number: int
    id: str
    place: int
    image: Images
    said: Prediction
    source: int | None
    truth: str | None = None

    @property
    def right(self) -> bool | None:
        """Whether the answer is what the label says; None without a label."""
        return None if self.truth is None else self.truth == self.said.label


class Gallery:
    """The loop hangs pictures, anybody looks. Bounded by ``most``; 0 keeps nothing.

    It holds images as they are and draws them small only where somebody looks: the loop has better things to do.
    """

    def __init__(self, most: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self.most = most
        self._clock = clock
        self._next = 0.0
        self._names: Sequence[str] = ()
        self._numbered = 0
        self._pictures: tuple[Picture, ...] = ()

    def tune(self, most: int) -> None:
        """Keep so many from now on; what is too much is forgotten at once."""
        self.most = most
        self._pictures = self._newest(self._pictures)

    def saw(self, batch: Batch, said: Sequence[Prediction], source: Tensor | None, names: Sequence[str]) -> None:
        """A batch was answered: ``source`` are the frozen model's logits, N x C, ``names`` those of the classes."""
        now = self._clock()
        if not self.most or now < self._next:
            return
        self._next, self._names = now + EACH_S, names
        spots = [(s.record.id, place, s.images[place]) for s in batch.samples for place in range(s.size)]
        stride = -(-len(spots) // AT_ONCE)
        classes = None if source is None else source.argmax(1).tolist()
        taken = []
        for row in range(0, len(spots), stride):
            self._numbered += 1
            id_, place, image = spots[row]
            taken.append(Picture(self._numbered, id_, place, image, said[row], classes[row] if classes else None))
        self._pictures = self._newest((*self._pictures, *taken))

    def labeled(self, label: Label) -> None:
        """A label has come, perhaps for one of the pictures. One that names no class is not heeded."""
        if any(picture.id == label.id for picture in self._pictures):
            truths = [self._name(class_) for class_ in label.labels]
            self._pictures = tuple(
                replace(p, truth=truths[p.place]) if p.id == label.id and p.place < len(truths) else p
                for p in self._pictures
            )

    def plain(self) -> list[dict[str, Any]]:
        """Every picture but its pixels, newest first, ready for JSON."""
        return [
            {
                "number": picture.number,
                "answer": picture.said.label,
                "confidence": picture.said.confidence,
                "source": self._name(picture.source),
                "label": picture.truth,
                "right": picture.right,
            }
            for picture in reversed(self._pictures[-self.most :] if self.most else ())
        ]

    def png(self, number: int) -> bytes | None:
        """A picture as a small PNG; None where it is not here any more."""
        image = next((picture.image for picture in self._pictures if picture.number == number), None)
        if image is None:
            return None
        drawn = Image.fromarray(_pixels(image))
        drawn.thumbnail((SIDE, SIDE))
        buffer = io.BytesIO()
        drawn.save(buffer, "PNG")
        return buffer.getvalue()

    def _newest(self, pictures: tuple[Picture, ...]) -> tuple[Picture, ...]:
        return pictures[-(self.most + LATE) :] if self.most else ()

    def _name(self, class_: int | str | None) -> str | None:
        if isinstance(class_, str):
            return class_ if class_ in self._names else None
        return self._names[class_] if class_ is not None and 0 <= class_ < len(self._names) else None


def _pixels(image: Images) -> NDArray[np.uint8]:
    """H x W x 3, uint8."""
    if image.dtype != np.uint8:
        image = np.rint(np.clip(np.nan_to_num(image), 0.0, 1.0) * 255).astype(np.uint8)
    return np.ascontiguousarray(image.transpose(1, 2, 0), dtype=np.uint8)
