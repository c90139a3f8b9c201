"""Who was right, and whether everything that was sent came out again exactly once."""

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tta_daemon.errors import Reason
from tta_daemon.offline.traffic import Junk, Photo
from tta_daemon.offline.worlds import Stretch

RECENT = 200
"""Answers in the running accuracy."""


@dataclass(slots=True)
class Score:
    """How many digits were read, and how many of them rightly by each model."""

    images: int = 0
    adapted_right: int = 0
    source_right: int = 0

    def add(self, *, adapted: bool, source: bool) -> None:
        """Count one digit."""
        self.images += 1
        self.adapted_right += adapted
        self.source_right += source

    def __add__(self, other: "Score") -> "Score":
        """Return both together."""
        return Score(
            self.images + other.images,
            self.adapted_right + other.adapted_right,
            self.source_right + other.source_right,
        )

    @property
    def adapted(self) -> float:
        """The share that the adapting daemon read rightly."""
        return self.adapted_right / self.images if self.images else float("nan")

    @property
    def source(self) -> float:
        """The share that the frozen model read rightly."""
        return self.source_right / self.images if self.images else float("nan")

    def jsonable(self) -> dict[str, float]:
        """As it stands in the summary."""
        return {"images": self.images, "source": round(self.source, 4), "adapted": round(self.adapted, 4)}


@dataclass(frozen=True, slots=True)
class Reading:
    """One photo and what each model took it for."""

    photo: Photo
    adapted: int
    source: int


class Scoreboard:
    """Joins what comes out with what was sent, by id. Order does not matter; every id is expected exactly once."""

    def __init__(self, journey: Sequence[Stretch], sent: Sequence[Photo | Junk]) -> None:
        self.journey = journey
        self.sent = sent
        self.readings: dict[str, Reading] = {}
        self.buried: dict[str, str] = {}
        self.strange: list[str] = []
        self.recent: deque[Reading] = deque(maxlen=RECENT)
        self.scores = [Score() for _ in journey]
        self._due = {item.id: item for item in sent}
        self._out: set[str] = set()

    def answer(self, record_id: str, adapted: int, source: int) -> None:
        """An answer has come."""
        item = self._first_time(record_id)
        if isinstance(item, Photo):
            reading = Reading(item, adapted, source)
            self.readings[record_id] = reading
            self.recent.append(reading)
            self.scores[item.stretch].add(adapted=adapted == item.label, source=source == item.label)
        elif item is not None:
            self.strange.append(f"{record_id} ({item.kind}) was answered")

    def bury(self, record_id: str, reason: str) -> None:
        """A dead letter has come."""
        item = self._first_time(record_id)
        if item is None:
            return
        self.buried[record_id] = reason
        if isinstance(item, Photo):
            self.strange.append(f"{record_id}, a good photo, was dead-lettered: {reason}")
        elif reason != item.reason:
            self.strange.append(f"{record_id} ({item.kind}) was dead-lettered for {reason}, not for {item.reason}")

    @property
    def came_out(self) -> int:
        """How many of the records have been answered or dead-lettered."""
        return len(self._out)

    @property
    def complete(self) -> bool:
        """Whether everything that was sent has come out."""
        return self.came_out == len(self.sent)

    @property
    def answered(self) -> int:
        """How many photos were answered."""
        return len(self.readings)

    @property
    def total(self) -> Score:
        """The score over the whole stream."""
        return sum(self.scores, Score())

    @property
    def lately(self) -> Score:
        """The score over the last answers."""
        score = Score()
        for reading in self.recent:
            label = reading.photo.label
            score.add(adapted=reading.adapted == label, source=reading.source == label)
        return score

    def domains(self) -> dict[str, Score]:
        """The score in each world, both laps together, in the order in which the worlds are met."""
        found: dict[str, Score] = {}
        for stretch, score in zip(self.journey, self.scores, strict=True):
            found[stretch.world] = found.get(stretch.world, Score()) + score
        return found

    def problems(self) -> Iterator[str]:
        """Say what disagrees between what went in and what came out; nothing, where all is well."""
        junk = sum(isinstance(item, Junk) for item in self.sent)
        for name, count, expected in (
            ("answered", self.answered, len(self.sent) - junk),
            ("dead-lettered", len(self.buried), junk),
        ):
            if count != expected:
                yield f"{count} records were {name}, {expected} should have been"
        yield from self.strange

    def reasons(self) -> dict[Reason | str, int]:
        """How many dead letters gave each reason."""
        return dict(sorted(Counter(self.buried.values()).items()))

    def course(self, window: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return places in the stream and both models' accuracy over ``window`` photos around each of them.

        No window reaches over the border between two stretches, so that a change of the world stays a step.
        """
        readings = [self.readings[item.id] for item in self.sent if item.id in self.readings]
        stretches = np.array([reading.photo.stretch for reading in readings])
        borders = [0, *(np.flatnonzero(np.diff(stretches)) + 1), len(readings)]
        parts = [_smooth(readings[start:end], window) for start, end in pairwise(borders) if end > start]
        adapted, source = np.concatenate(parts, axis=1)
        return np.arange(len(readings), dtype=np.float64), adapted, source

    def _first_time(self, record_id: str) -> Photo | Junk | None:
        """Return what was sent under this id, unless it has come out before or was never sent."""
        if record_id in self._out:
            self.strange.append(f"{record_id} came out twice")
            return None
        item = self._due.get(record_id)
        if item is None:
            self.strange.append(f"{record_id} came out, but was never sent")
        else:
            self._out.add(record_id)
        return item


def _smooth(readings: Sequence[Reading], window: int) -> NDArray[np.float64]:
    right = np.array([[r.adapted == r.photo.label, r.source == r.photo.label] for r in readings], dtype=np.float64).T
    sums = np.pad(right.cumsum(axis=1), ((0, 0), (1, 0)))
    places = np.arange(len(readings))
    first = np.clip(places - window // 2, 0, None)
    last = np.clip(places + (window + 1) // 2, None, len(readings))
    smooth: NDArray[np.float64] = (sums[:, last] - sums[:, first]) / (last - first)
    return smooth
