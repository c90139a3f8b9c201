"""Records that cannot be answered: kept as they came, with the reason beside them."""

from collections import deque

from tta_daemon.errors import RecordRejected, TooManyRejected
from tta_daemon.stream.records import Headers, Message, Partition, Position, Record

PREFIX = "tta.dlq."
CONNECT_PREFIX = "__connect.errors."
ATTEMPT = f"{PREFIX}attempt"
OMITTED = f"{PREFIX}omitted"
"""Only on a letter that was too large: the size of the record, of which the value at least was left out."""

LONGEST_MESSAGE = 1000
AT_LEAST = 100
"""Records that must have been seen before their share of rejections means anything (or a full window)."""


class DeadLetters:
    """Writes letters: key, value and headers untouched, and headers of ours that say what, where and why.

    Args:
        topic: where letters go.
        connect_headers: also write the headers that Kafka Connect's dead letter queues have.
        most_bytes: what the topic takes. A larger letter goes without its value, and if need be without key and
            headers: the position says where they are. A letter that the broker refuses would come back for ever.
    """

    def __init__(self, topic: str, *, connect_headers: bool = False, most_bytes: int = 1_000_000) -> None:
        self.topic = topic
        self.connect_headers = connect_headers
        self.most_bytes = most_bytes

    def letter(self, record: Record, fault: RecordRejected) -> Message:
        """The dead letter for a record; its attempt is one more than the record's own."""
        (topic, partition), offset = record.position
        message = fault.message[:LONGEST_MESSAGE]
        ours: dict[str, str | int] = {
            "reason": fault.reason.value,
            "message": message,
            "topic": topic,
            "partition": partition,
            "offset": offset,
            "timestamp": round(record.timestamp_s * 1000),
            "attempt": attempts(record) + 1,
        }
        headers: dict[str, str | int] = {f"{PREFIX}{name}": value for name, value in ours.items()}
        if self.connect_headers:
            theirs: dict[str, str | int] = {
                "topic": topic,
                "partition": partition,
                "offset": offset,
                "connector.name": "tta-daemon",
                "stage": "VALUE_CONVERTER",
                "exception.class.name": fault.reason.value,
                "exception.message": message,
            }
            headers |= {f"{CONNECT_PREFIX}{name}": value for name, value in theirs.items()}
        untouched: Headers = tuple(
            (name, value) for name, value in record.headers if not (name.startswith(PREFIX) or name in headers)
        )
        added: Headers = tuple((name, str(value).encode("utf-8", "replace")) for name, value in headers.items())
        return self._fitting(record, untouched, added)

    def _fitting(self, record: Record, untouched: Headers, added: Headers) -> Message:
        """The whole letter, or as much of it as the topic takes."""
        room = self.most_bytes - sum(len(name) + len(value) for name, value in added)
        if record.size_bytes <= room:
            return Message(self.topic, record.key, record.value, untouched + added)
        left_out = ((OMITTED, str(record.size_bytes).encode()),)
        if record.size_bytes - len(record.value or b"") <= room:
            return Message(self.topic, record.key, None, untouched + added + left_out)
        return Message(self.topic, None, None, added + left_out)


def attempts(record: Record) -> int:
    """How often this record has been rejected before."""
    said = record.header(ATTEMPT) or "0"
    return int(said) if said.isascii() and said.isdigit() and len(said) < 10 else 0  # noqa: PLR2004 - digits of an int32


class RejectRatio:
    """Stops the daemon before it drains a topic that is wrong as a whole into the dead letters.

    A record that is read again, after a failed delivery or a rebalance, counts only the first time.

    Args:
        limit: largest share of rejected records.
        window: over how many of the last records the share is taken.
        at_least: how many must have been seen; never more than the window.
    """

    def __init__(self, limit: float, window: int, at_least: int = AT_LEAST) -> None:
        self._last: deque[bool] = deque()
        self._next: dict[Partition, int] = {}
        self.tune(limit, window, at_least)

    def tune(self, limit: float, window: int, at_least: int = AT_LEAST) -> None:
        """Go on with other bounds; of what was seen, as much stays as the window holds."""
        self.limit = limit
        self.at_least = min(at_least, window)
        self._last = deque(self._last, maxlen=window)
        self._rejected = sum(self._last)

    def saw(self, position: Position, *, rejected: bool) -> None:
        """Count a record, if it is new.

        Raises:
            TooManyRejected: the share is above the limit.
        """
        if position.offset < self._next.get(position.partition, 0):
            return
        self._next[position.partition] = position.offset + 1
        if len(self._last) == self._last.maxlen:
            self._rejected -= self._last[0]
        self._last.append(rejected)
        self._rejected += rejected
        seen = len(self._last)
        if seen >= self.at_least and self._rejected > self.limit * seen:
            raise TooManyRejected(
                f"limits.reject_ratio: {self._rejected} of the last {seen} records were rejected, more than "
                f"{self.limit:.0%}; does the topic hold what input and model expect? Look at the dead letters"
            )
