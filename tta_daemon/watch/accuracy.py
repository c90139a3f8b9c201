"""Labels that come later meet the answers they judge: accuracy of the adapted and of the frozen model, side by side."""

import json
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tta_daemon.errors import Reason, RecordRejected
from tta_daemon.stream.records import LONGEST_ID, Record, Stream

LARGEST_VALUE = 1 << 20


@dataclass(frozen=True, slots=True)
class Label:
    """What a record of the labels topic says: the classes of one answer's images, in their order."""

    id: str
    labels: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Scored:
    """One answer that met its label: how many of its images each model had right, and how late the label came.

    ``served_right`` counts what left, where that was not the adapted model's answer. ``stream`` was answered.
    """

    images: int
    adapted_right: int
    source_right: int | None
    delay_s: float
    served_right: int | None = None
    stream: Stream | None = None


@dataclass(slots=True)
class Tally:
    """What became of labels and answers since birth; every number only grows."""

    labels: int = 0
    invalid: int = 0
    duplicate: int = 0
    unmatched: int = 0
    unlabeled: int = 0


@dataclass(slots=True)
class _Waiting:
    since: float
    adapted: tuple[int, ...] = ()
    source: tuple[int, ...] | None = None
    served: tuple[int, ...] = ()
    truth: tuple[int, ...] | None = None
    stream: Stream | None = None


class LabelJoin:
    """Joins answers and labels by id, in either order, once each.

    Bounded: no more than ``most`` ids wait for their other half, nor longer than ``wait_s``, and as many are remembered
    as done. The clock is an argument and never runs backwards.

    >>> join = LabelJoin(["cat", "dog"])
    >>> join.answered("a", adapted=[0, 1], source=[1, 1], now=0.0)
    >>> join.labelled("a", ["cat", "cat"], now=5.0)
    Scored(images=2, adapted_right=1, source_right=0, delay_s=5.0, served_right=None)
    """

    def __init__(
        self, names: Sequence[str] = (), classes: int | None = None, *, most: int = 100_000, wait_s: float = 3600.0
    ) -> None:
        self.most, self.wait_s = most, wait_s
        self.tally = Tally()
        self._classes = len(names) or classes
        self._by_name = {name: number for number, name in enumerate(names)}
        self._answers: OrderedDict[str, _Waiting] = OrderedDict()
        self._labels: OrderedDict[str, _Waiting] = OrderedDict()
        self._done: OrderedDict[str, _Waiting] = OrderedDict()

    def tune(self, names: Sequence[str], *, most: int, wait_s: float) -> None:
        """Go on with other bounds. Where the classes are others, no label can judge what waits: it is forgotten."""
        self.most, self.wait_s = most, wait_s
        by_name = {name: number for number, name in enumerate(names)}
        if by_name == self._by_name:
            return
        self._by_name, self._classes = by_name, len(names)
        self.tally.unlabeled += len(self._answers)
        self.tally.unmatched += len(self._labels)
        self._answers.clear()
        self._labels.clear()

    def malformed(self) -> None:
        """A label has come that cannot even be read."""
        self.tally.labels += 1
        self.tally.invalid += 1

    def __len__(self) -> int:
        """How many ids wait for their other half."""
        return len(self._answers) + len(self._labels)

    def answered(  # noqa: PLR0913, PLR0917 - an answer has that many sides
        self,
        id: str,  # noqa: A002 - what records call it
        adapted: Sequence[int],
        source: Sequence[int] | None,
        now: float,
        served: Sequence[int] = (),
        stream: Stream | None = None,
    ) -> Scored | None:
        """An answer has left; scored at once where its label was here first. Of two answers the later counts.

        ``served`` are the classes that left, where those are not the adapted model's.
        """
        self._forget(now)
        if id in self._done:
            return None
        of_source = None if source is None else tuple(source)
        answer = _Waiting(now, tuple(adapted), of_source, tuple(served), stream=stream)
        early = self._labels.pop(id, None)
        if early is not None and early.truth is not None:
            return self._score(id, answer, early.truth, now, delay_s=0.0)
        self._keep(self._answers, id, answer)
        return None

    def labelled(self, id: str, labels: Sequence[int | str], now: float) -> Scored | None:  # noqa: A002 - as above
        """A label has come. One that makes no sense is counted, and the answer goes on waiting for a better one."""
        self._forget(now)
        self.tally.labels += 1
        if id in self._done or id in self._labels:
            self.tally.duplicate += 1
            return None
        truth = tuple(self._class(label) for label in labels)
        known = tuple(number for number in truth if number is not None)
        if not known or len(known) != len(truth):
            self.tally.invalid += 1
            return None
        answer = self._answers.get(id)
        if answer is None:
            self._keep(self._labels, id, _Waiting(now, truth=known))
            return None
        return self._score(id, answer, known, now, delay_s=now - answer.since)

    def _score(self, id: str, answer: _Waiting, truth: tuple[int, ...], now: float, delay_s: float) -> Scored | None:  # noqa: A002
        if len(truth) != len(answer.adapted):
            self.tally.invalid += 1
            self._answers.setdefault(id, answer)
            return None
        self._answers.pop(id, None)
        self._keep(self._done, id, _Waiting(now))
        return Scored(
            images=len(truth),
            adapted_right=_right(answer.adapted, truth),
            source_right=None if answer.source is None else _right(answer.source, truth),
            delay_s=max(0.0, delay_s),
            served_right=_right(answer.served, truth) if answer.served else None,
            stream=answer.stream,
        )

    def _class(self, label: int | str) -> int | None:
        if isinstance(label, str):
            return self._by_name.get(label)
        if isinstance(label, bool) or label < 0 or (self._classes is not None and label >= self._classes):
            return None
        return label

    def _keep(self, shelf: OrderedDict[str, _Waiting], id: str, entry: _Waiting) -> None:  # noqa: A002
        shelf[id] = entry
        shelf.move_to_end(id)
        self._trim(shelf, entry.since)

    def _forget(self, now: float) -> None:
        for shelf in (self._answers, self._labels, self._done):
            self._trim(shelf, now)

    def _trim(self, shelf: OrderedDict[str, _Waiting], now: float) -> None:
        while shelf and (len(shelf) > self.most or next(iter(shelf.values())).since < now - self.wait_s):
            shelf.popitem(last=False)
            self.tally.unlabeled += shelf is self._answers
            self.tally.unmatched += shelf is self._labels


@dataclass(frozen=True, slots=True)
class Ratio:
    """Accuracies over the same images; None for a model that answered none of them."""

    images: int
    adapted: float | None
    source: float | None
    served: float | None = None


class Accuracy:
    """Accuracy over the last ``window`` labeled images, and over all of them.

    Where the source model answered some of the images, both accuracies are over those; else over all there are: the
    two are always about the same images.
    """

    def __init__(self, window: int = 1000) -> None:
        self.window = window
        self._answers: deque[Scored] = deque()
        self._recent, self._overall = _Sums(), _Sums()

    def add(self, scored: Scored) -> None:
        """Count one scored answer. Answers leave the window whole, once the others fill it."""
        self._answers.append(scored)
        self._recent.add(scored)
        self._overall.add(scored)
        while self._recent.images - self._answers[0].images >= self.window:
            self._recent.add(self._answers.popleft(), sign=-1)

    @property
    def recent(self) -> Ratio:
        """Over the window."""
        return self._recent.ratio()

    @property
    def overall(self) -> Ratio:
        """Since birth."""
        return self._overall.ratio()


@dataclass(slots=True)
class _Sums:
    images: int = 0
    adapted: int = 0
    served: int = 0
    shared: int = 0
    adapted_shared: int = 0
    served_shared: int = 0
    source: int = 0

    def add(self, scored: Scored, sign: int = 1) -> None:
        self.images += sign * scored.images
        self.adapted += sign * scored.adapted_right
        served = scored.adapted_right if scored.served_right is None else scored.served_right
        self.served += sign * served
        if scored.source_right is not None:
            self.shared += sign * scored.images
            self.adapted_shared += sign * scored.adapted_right
            self.served_shared += sign * served
            self.source += sign * scored.source_right

    def ratio(self) -> Ratio:
        if self.shared:
            shares = (right / self.shared for right in (self.adapted_shared, self.source, self.served_shared))
            return Ratio(self.shared, *shares)
        if self.images:
            return Ratio(self.images, self.adapted / self.images, None, self.served / self.images)
        return Ratio(0, None, None)


def parse_label(record: Record) -> Label:
    """What a record of the labels topic says.

    Raises:
        RecordRejected: it is no ``{"id": ..., "labels": [...]}``.
    """
    if not record.value:
        raise RecordRejected(Reason.EMPTY_VALUE, "a label without a value")
    if len(record.value) > LARGEST_VALUE:
        raise RecordRejected(Reason.TOO_LARGE, f"{len(record.value)} bytes are more than {LARGEST_VALUE}")
    try:
        said: Any = json.loads(record.value)
    except (ValueError, RecursionError) as error:
        raise RecordRejected(Reason.UNDECODABLE, f"not JSON: {error}") from error
    if not isinstance(said, dict):
        raise RecordRejected(Reason.WRONG_SHAPE, 'not of the form {"id": ..., "labels": [...]}')
    name, labels = said.get("id"), said.get("labels")
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_ID:
        raise RecordRejected(Reason.WRONG_SHAPE, f'"id" is not a text of 1 to {LONGEST_ID} letters')
    if not isinstance(labels, list) or not labels:
        raise RecordRejected(Reason.WRONG_SHAPE, '"labels" is not a list with something in it')
    if any(isinstance(label, bool) or not isinstance(label, int | str) for label in labels):
        raise RecordRejected(Reason.WRONG_DTYPE, '"labels" holds what is neither a number nor a name of a class')
    return Label(name, tuple(labels))


def _right(answers: tuple[int, ...], truth: tuple[int, ...]) -> int:
    return sum(answer == label for answer, label in zip(answers, truth, strict=True))
