"""Labels that come late: read from their topic, joined to the answers, turned into accuracy."""

from tta_daemon.errors import RecordRejected
from tta_daemon.stream.records import Answer
from tta_daemon.stream.source import Tail
from tta_daemon.watch.accuracy import LabelJoin, parse_label
from tta_daemon.watch.metrics import Metrics

MOST = 1000
"""Labels read in one turn, so that a flood of them cannot keep the answers waiting."""


class Labels:
    """The labels topic, where there is one, beside the answers that wait for their labels."""

    def __init__(self, tail: Tail | None, join: LabelJoin, metrics: Metrics) -> None:
        self._tail = tail
        self._join = join
        self._metrics = metrics

    def answered(self, answer: Answer, now: float) -> None:
        """Remember what was answered until its label comes."""
        if self._tail is not None:
            adapted = [prediction.class_ for prediction in answer.predictions]
            self._join.answered(answer.id, adapted, answer.source_class, now)

    def join(self, now: float) -> None:
        """Score every label that has come."""
        if self._tail is None:
            return
        for record in self._tail.poll(0.0, MOST):
            try:
                identity, labels = parse_label(record)
            except RecordRejected:
                self._metrics.label_invalid()
            else:
                self._metrics.labelled(self._join.labelled(identity, labels, now))

    def close(self) -> None:
        """Stop reading."""
        if self._tail is not None:
            self._tail.close()
