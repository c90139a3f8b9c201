"""A topic read once, from its beginning to its present end, by nobody's group."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from tta_daemon.errors import BrokerUnreachable
from tta_daemon.stream.kafka_client import GRACE_S, Caller, abandon, named, opened, record_of
from tta_daemon.stream.records import Record

CALL_S = 15.0
PATIENCE_S = 60.0

log = logging.getLogger(__name__)


def everything(
    client: Mapping[str, Any],
    topic: str,
    *,
    patience_s: float = PATIENCE_S,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Record]:
    """Every committed record of the topic up to where it ends now; fewer only if ``stopped`` says so meanwhile.

    Raises:
        BrokerUnreachable: the brokers refuse, or for ``patience_s`` nothing came although there is more.
    """
    for records in slices(client, topic, patience_s=patience_s):
        yield from records
        if stopped():
            return


def slices(
    client: Mapping[str, Any], topic: str, number: int | None = None, *, patience_s: float = PATIENCE_S
) -> Iterator[Sequence[Record]]:
    """As `everything`, of one partition if it is named, a few records at a time and none where none came for a moment.

    The first slice is empty, and so nothing is read where nobody asks for a second one.
    """
    caller, consumer = Caller(f"kafka-reading-{topic}"), None
    try:
        consumer = opened(KafkaConsumer, caller, client, CALL_S, **READING)
        yield from _Reading(consumer, caller, topic, number, patience_s).slices()
    except (KafkaError, TimeoutError) as error:
        raise BrokerUnreachable(f"{topic!r} gave an error: {named(error)}") from error
    finally:
        if consumer is not None:
            abandon(consumer._client)  # noqa: SLF001 - there is no group to leave
        caller.close()


READING = {
    "group_id": None,
    "enable_auto_commit": False,
    "isolation_level": "read_committed",
    "auto_offset_reset": "earliest",
    "request_timeout_ms": 15_000,
}


class _Reading:
    """One pass over a topic."""

    def __init__(
        self,
        consumer: Any,  # noqa: ANN401 - untyped
        caller: Caller,
        topic: str,
        number: int | None,
        patience_s: float,
    ) -> None:
        self.consumer, self.caller, self.topic, self.patience_s = consumer, caller, topic, patience_s
        numbers = self._call(lambda: consumer.partitions_for_topic(topic)) or ()
        self.places = [TopicPartition(topic, each) for each in sorted(numbers) if number in {None, each}]

    def slices(self) -> Iterator[Sequence[Record]]:
        """The records, partition by partition as they come."""
        yield []
        if not self.places:
            return
        self.consumer.assign(self.places)
        self.consumer.seek_to_beginning(*self.places)
        ends = self._call(lambda: self.consumer.end_offsets(self.places, timeout_ms=CALL_S * 1000))
        moved_at, told_at, missing = time.monotonic(), time.monotonic(), self._missing(ends)
        while missing:
            found = self.caller.within(CALL_S + GRACE_S, lambda: self.consumer.poll(timeout_ms=500))
            yield [record_of(record) for records in found.values() for record in records]
            before, missing, now = missing, self._missing(ends), time.monotonic()
            moved_at = now if missing < before else moved_at
            if now - moved_at > self.patience_s:
                raise BrokerUnreachable(f"{self.topic!r} stands still {missing} offsets before its end")
            if now - told_at > GRACE_S:
                told_at = now
                log.info("reading %s: %d offsets to go", self.topic, missing)

    def _missing(self, ends: Mapping[Any, int]) -> int:
        """How many offsets are still to be read."""
        at = {place: self._call(lambda p=place: self.consumer.position(p, timeout_ms=CALL_S * 1000)) for place in ends}  # type: ignore[misc]
        return sum(max(0, end - (at[place] or 0)) for place, end in ends.items())

    def _call(self, call: Callable[[], Any]) -> Any:  # noqa: ANN401 - whatever kafka-python returns
        return self.caller.within(CALL_S + GRACE_S, call)
