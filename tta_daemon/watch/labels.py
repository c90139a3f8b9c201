"""Labels that come late: read from their topic, joined to the answers, turned into accuracy."""

from collections.abc import Callable, Sequence

from tta_daemon.control.sections import Watch
from tta_daemon.errors import RecordRejected
from tta_daemon.stream.records import Answer, Stream
from tta_daemon.stream.source import Tail
from tta_daemon.watch.accuracy import Accuracy, Label, LabelJoin, Scored, parse_label
from tta_daemon.watch.metrics import Metrics

MOST = 1000
"""Labels read in one turn, so that a flood of them cannot keep the answers waiting."""


class Labels:
    """The labels topic, where there is one, beside the answers that wait for their labels."""

    def __init__(self, tail: Tail | None, join: LabelJoin, accuracy: Accuracy, metrics: Metrics) -> None:
        self._tail = tail
        self._join = join
        self._metrics = metrics
        self.accuracy = accuracy
        self.heard: Callable[[Label], None] = lambda _: None
        self._scored: list[Scored] = []

    def answered(self, answer: Answer, now: float, stream: Stream | None = None) -> None:
        """Remember what was answered until its label comes."""
        if self._tail is not None:
            served = [prediction.class_ for prediction in answer.predictions]
            joined = self._join.answered
            if answer.by == "adapted":
                self._count(joined(answer.id, served, answer.source_class, now, stream=stream))
            else:
                self._count(joined(answer.id, answer.adapted_class, answer.source_class, now, served, stream))

    def join(self, now: float) -> list[Scored]:
        """Score every label that has come; returns what was scored since the last call."""
        for record in self._tail.poll(0.0, MOST) if self._tail is not None else ():
            try:
                label = parse_label(record)
            except RecordRejected:
                self._join.malformed()
            else:
                self._count(self._join.labelled(label.id, label.labels, now))
                self.heard(label)
        self._metrics.tallied(self._join.tally)
        scored, self._scored = self._scored, []
        return scored

    def tune(self, watch: Watch, names: Sequence[str]) -> None:
        """Go on with other bounds, nothing forgotten that fits them; and with other classes, everything that waits."""
        self._join.tune(names, most=watch.label_window, wait_s=watch.label_wait_s)
        self.accuracy.window = watch.window

    def close(self) -> None:
        """Stop reading."""
        if self._tail is not None:
            self._tail.close()

    def _count(self, scored: Scored | None) -> None:
        if scored is not None:
            self.accuracy.add(scored)
            self._metrics.labelled(scored, self.accuracy)
            self._scored.append(scored)
