"""The values that travel through the daemon: a record becomes a sample, samples a batch, a batch answers."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Headers: TypeAlias = tuple[tuple[str, bytes], ...]
Images: TypeAlias = NDArray[np.uint8] | NDArray[np.float32]

LONGEST_ID = 1024
"""Letters that the id of a record, or of a label, may have."""

CARRIED = ("traceparent", "tracestate")
"""Headers that an answer takes over from its record, so that a trace goes through."""


class Partition(NamedTuple):
    """One partition of one topic."""

    topic: str
    number: int


class Position(NamedTuple):
    """The place of one record in the log; unique."""

    partition: Partition
    offset: int


class Stream(NamedTuple):
    """Whose state it is: the records of one name in one partition. Without a home: all records there are.

    A key lives in one partition, so what is learned of it moves with that partition, and nobody else has any of it.
    """

    name: str = ""
    home: Partition | None = None

    @property
    def place(self) -> Partition:
        """The home of a stream that has one."""
        if self.home is None:
            raise ValueError(f"stream {self.name!r} is of no partition")
        return self.home


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it was read: nothing is interpreted yet. ``fault``: why it could not be read at all."""

    position: Position
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    timestamp_s: float = 0.0
    fault: str = ""

    def header(self, name: str) -> str | None:
        """The header's text (the last one of that name, whatever its case), or None."""
        wanted = name.lower()
        for found, value in reversed(self.headers):
            if found.lower() == wanted:
                return (value or b"").decode("utf-8", errors="replace")
        return None

    @property
    def id(self) -> str:
        """What answers and labels are joined by: header `id`, CloudEvents' `ce_id`, or the position."""
        (topic, number), offset = self.position
        return self.header("id") or self.header("ce_id") or f"{topic}-{number}-{offset}"

    @property
    def size_bytes(self) -> int:
        """What the record holds in memory, roughly."""
        return _size_bytes(self.key, self.value, self.headers)


@dataclass(frozen=True, slots=True)
class Sample:
    """A record and its images: N x 3 x H x W, uint8 (255 is white) or float32 in [0, 1].

    ``learned`` ones are to be answered (again), not learned from again. ``home`` is the partition that the state of
    its stream belongs to, if to one.
    """

    record: Record
    stream: str
    images: Images
    learned: bool = False
    home: Partition | None = None

    @property
    def of(self) -> Stream:
        """Whose state answers."""
        return Stream(self.stream, self.home)

    @property
    def size(self) -> int:
        """How many images."""
        return len(self.images)


@dataclass(frozen=True)
class Batch:
    """Samples of one stream that are answered together, with their records: answers and offsets cannot drift apart.

    All of them are to be learned from, or none.
    """

    stream: str
    samples: tuple[Sample, ...]

    @cached_property
    def size(self) -> int:
        """How many images."""
        return sum(sample.size for sample in self.samples)

    @property
    def of(self) -> Stream:
        """Whose state answers."""
        return self.samples[0].of

    @property
    def learned(self) -> bool:
        """Whether the state has learned from these records before."""
        return self.samples[0].learned

    @property
    def records(self) -> tuple[Record, ...]:
        """The records, in the samples' order."""
        return tuple(sample.record for sample in self.samples)

    def images(self) -> NDArray[np.float32]:
        """All images, N x 3 x H x W, float32 in [0, 1], in the samples' order."""
        parts: list[NDArray[np.float32]] = [_unit(sample.images) for sample in self.samples]
        return np.concatenate(parts) if len(parts) != 1 else parts[0]

    def split(self, values: Sequence[Any]) -> list[Sequence[Any]]:
        """Cut one value per image into one sequence per sample."""
        if len(values) != self.size:
            raise ValueError(f"{len(values)} values for {self.size} images")
        cuts, start = [], 0
        for sample in self.samples:
            cuts.append(values[start : start + sample.size])
            start += sample.size
        return cuts


def _unit(images: Images) -> NDArray[np.float32]:
    if images.dtype == np.uint8:
        return images.astype(np.float32) / np.float32(255)
    return images.astype(np.float32, copy=False)


@dataclass(frozen=True, slots=True)
class Message:
    """What a sink sends."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int | None = None  # None: as the key decides

    @property
    def size_bytes(self) -> int:
        """What it takes in a topic, roughly."""
        return _size_bytes(self.key, self.value, self.headers)


def _size_bytes(key: bytes | None, value: bytes | None, headers: Headers) -> int:
    return len(key or b"") + len(value or b"") + sum(len(name.encode()) + len(said or b"") for name, said in headers)


class Guess(NamedTuple):
    """One of the most probable classes of an image."""

    class_: int
    label: str
    confidence: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one image shows, and what else it might be."""

    class_: int
    label: str
    confidence: float
    top: tuple[Guess, ...] = ()

    def jsonable(self) -> dict[str, Any]:
        """As it stands in an answer's JSON."""
        best = {"class": self.class_, "label": self.label, "confidence": _short(self.confidence)}
        top = [{"class": g.class_, "label": g.label, "confidence": _short(g.confidence)} for g in self.top]
        return {**best, "top": top} if top else best


def _short(confidence: float) -> float:
    return round(float(confidence), 6)


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one record: one prediction per image, and what source and adapted model say by themselves.

    ``by`` names who was believed: source, adapted, mixed (adapted, with some of the source's statistics), or blend.
    """

    id: str
    stream: str
    predictions: tuple[Prediction, ...]
    source_class: tuple[int, ...] | None
    model: str
    method: str
    step: int
    adapted_class: tuple[int, ...] = ()
    by: str = "adapted"

    def message(self, topic: str, record: Record) -> Message:
        """The answer as a record of its own: same key, same id, the trace carried on."""
        body: dict[str, Any] = {"id": self.id, "predictions": [p.jsonable() for p in self.predictions]}
        if self.source_class is not None:
            body["source_class"] = list(self.source_class)
        if self.by != "adapted":
            body["adapted_class"] = list(self.adapted_class)
        body |= {"by": self.by, "model": self.model, "method": self.method, "step": self.step, "stream": self.stream}
        value = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        headers = [("id", self.id.encode()), ("content-type", b"application/json")]
        headers += [(name, text.encode()) for name in CARRIED if (text := record.header(name)) is not None]
        return Message(topic, record.key, value, tuple(headers))
