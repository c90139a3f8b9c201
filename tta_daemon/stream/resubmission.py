"""Dead letters read back: what each was, why it was rejected, and the record to try again with."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tta_daemon.errors import Reason
from tta_daemon.stream.dead_letters import ATTEMPT, CONNECT_PREFIX, OMITTED, PREFIX, attempts
from tta_daemon.stream.kafka_tail import KafkaTail
from tta_daemon.stream.records import Message, Partition, Position, Record

PATIENCE_S = 2.0


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter as it lies in its topic, and what its headers say; text that makes no sense becomes nothing."""

    record: Record
    reason: str
    message: str
    origin: Position | None
    attempt: int
    omitted_bytes: int

    @classmethod
    def of(cls, record: Record) -> "Letter":
        """Read a record of the dead letter topic; any record will do."""
        topic, number, offset = (record.header(PREFIX + name) or "" for name in ("topic", "partition", "offset"))
        placed = bool(topic) and _number(number) is not None and _number(offset) is not None
        origin = Position(Partition(topic, _number(number) or 0), _number(offset) or 0) if placed else None
        reason = record.header(f"{PREFIX}reason") or ""
        known = reason if reason in set(Reason) else "unknown"
        omitted = _number(record.header(OMITTED) or "0") or 0
        return cls(record, known, record.header(f"{PREFIX}message") or "", origin, attempts(record), omitted)

    def again(self, topic: str = "") -> Message:
        """The record as it came in, for the topic it came from (or another), with the number of attempts so far.

        Raises:
            ValueError: it cannot be tried again: its origin is unknown or its value was left out.
        """
        if self.omitted_bytes:
            raise ValueError("its value was too large for the dead letters; the original may still be at its offset")
        wanted = topic or (self.origin.partition.topic if self.origin else "")
        if not wanted:
            raise ValueError("its headers do not say where it came from")
        ours = (PREFIX, CONNECT_PREFIX)
        headers = tuple((name, value) for name, value in self.record.headers if not name.startswith(ours))
        return Message(wanted, self.record.key, self.record.value, (*headers, (ATTEMPT, str(self.attempt).encode())))


def letters(
    client: Mapping[str, Any], topic: str, since_s: float = 0.0, patience_s: float = PATIENCE_S
) -> Iterator[Letter]:
    """The letters of a topic since a time, until none comes for `patience_s`.

    Raises:
        BrokerUnreachable: no broker answered.
    """
    tail = KafkaTail(client, topic, since_s=since_s)
    try:
        quiet_s = 0.0
        while quiet_s < patience_s:
            found = tail.poll(0.25, 500)
            quiet_s = 0.0 if found else quiet_s + 0.25
            yield from map(Letter.of, found)
    finally:
        tail.close()


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None  # noqa: PLR2004 - an int64
