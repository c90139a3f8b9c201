"""Everything that the demo sends, planned before it starts: a journey through the worlds, with bad records in it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tta_daemon.errors import Reason
from tta_daemon.offline import malformed
from tta_daemon.offline.malformed import Value
from tta_daemon.offline.scans import Scans
from tta_daemon.offline.worlds import Stretch

CAMERAS = ("camera-1", "camera-2", "camera-3")
"""Keys of the records: one camera's images stay in one partition, in their order."""


@dataclass(frozen=True, slots=True)
class Photo:
    """A good record: one digit as the camera sees it (uint8, H x W x 3), and the truth that only people know."""

    id: str
    camera: str
    stretch: int
    image: NDArray[np.uint8]
    label: int

    def value(self) -> Value:
        """What goes over the wire."""
        return Value(malformed.png(self.image), malformed.PNG)


@dataclass(frozen=True, slots=True)
class Junk:
    """A bad record, and the reason for which it must be rejected."""

    id: str
    camera: str
    kind: str

    def value(self) -> Value:
        """What goes over the wire."""
        return malformed.KINDS[self.kind]().value

    @property
    def reason(self) -> Reason:
        """What its dead letter must say."""
        return malformed.KINDS[self.kind]().reason


def plan(journey: Sequence[Stretch], scans: Scans, per_stretch: int, junk: int, seed: int) -> tuple[Photo | Junk, ...]:
    """Return all records in the order in which they are sent; the same for the same seed."""
    photos = list(_photos(journey, scans, per_stretch, np.random.default_rng(seed)))
    gap = len(photos) / (junk + 1)
    kinds = list(malformed.KINDS)
    for number in reversed(range(junk)):  # from the end, so that the places before stay where they are
        kind, camera = kinds[number % len(kinds)], CAMERAS[number % len(CAMERAS)]
        photos.insert(round(gap * (number + 1)), Junk(f"junk-{number:02d}", camera, kind))
    return tuple(photos)


def _photos(
    journey: Sequence[Stretch], scans: Scans, per_stretch: int, chance: np.random.Generator
) -> Iterator[Photo | Junk]:
    for number, stretch in enumerate(journey):
        chosen = chance.permutation(len(scans))[:per_stretch]
        seen = stretch.see(scans.images[chosen], chance)
        for place, (image, label) in enumerate(zip(seen, scans.labels[chosen], strict=True)):
            camera = CAMERAS[place % len(CAMERAS)]
            yield Photo(
                f"{stretch.world.replace(' ', '-')}-{number:02d}-{place:04d}", camera, number, image, int(label)
            )
