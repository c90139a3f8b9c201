"""Dead letters read back: what each was, why it was rejected, and the record to try again with."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from kafka import KafkaProducer
from kafka.errors import InvalidProducerEpochError, KafkaError, ProducerFencedError

from tta_daemon.errors import DeliveryError, Fenced, Reason
from tta_daemon.stream.dead_letters import ATTEMPT, CONNECT_PREFIX, OMITTED, PREFIX, attempts
from tta_daemon.stream.kafka_client import GRACE_S, Caller, named, opened
from tta_daemon.stream.kafka_reading import CALL_S, everything
from tta_daemon.stream.records import Message, Partition, Position, Record

RECEIPT = f"{PREFIX}receipt"
"""Only on a record that is no letter: its value lists the letters that went back, as [[topic, partition, offset]]."""

LOT_LETTERS, LOT_BYTES, LOT_S = 200, 16 << 20, 30.0


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


@dataclass(frozen=True, slots=True)
class Found:
    """The letters of a topic, without their values, and those of them that went back already."""

    letters: tuple[Letter, ...]
    resubmitted: frozenset[Position]

    def obstacle(self, letter: Letter, topic: str, attempts_most: int) -> str:
        """Why this letter does not go back to ``topic``; empty where it does."""
        if letter.record.position in self.resubmitted:
            return "went back before"
        if letter.omitted_bytes:
            return "too large for the dead letters: only its position was kept"
        if letter.reason == Reason.UNDECODABLE and letter.record.key is None and not letter.record.value:
            return "could not be read: only its position was kept"
        if letter.origin is None or letter.origin.partition.topic != topic:
            return f"did not come from {topic!r}"
        if letter.attempt >= attempts_most:
            return f"rejected {attempts_most} times or more"
        return ""


def letters(
    client: Mapping[str, Any], topic: str, stopped: Callable[[], bool] = lambda: False
) -> Iterator[Letter | frozenset[Position]]:
    """The letters of a topic up to where it ends now, and between them the receipts of those that went back.

    Raises:
        BrokerUnreachable: no broker answered, or the topic stands still before its end.
    """
    for record in everything(client, topic, stopped=stopped):
        yield _receipt(record) if record.header(RECEIPT) is not None else Letter.of(record)


def look(client: Mapping[str, Any], topic: str, told: Callable[[int], None] = lambda _: None) -> Found:
    """All letters of a topic; ``told`` is called with how many have been read. Raises as `letters` does."""
    found: list[Letter] = []
    resubmitted: set[Position] = set()
    for one in letters(client, topic):
        if isinstance(one, Letter):
            found.append(replace(one, record=replace(one.record, value=None)))
        else:
            resubmitted |= one
        told(len(found))
    return Found(tuple(found), frozenset(resubmitted))


def resubmit(
    client: Mapping[str, Any], topic: str, chosen: Collection[Position], transactional_id: str | None
) -> Iterator[int]:
    """Send the records of the chosen letters back to where they came from; yields how many are safely there.

    With each lot goes a receipt into the letters' own topic, so that none goes back twice: in one transaction with
    them, or, without ``transactional_id``, after them.

    Raises:
        BrokerUnreachable: no broker answered.
        DeliveryError: a lot was not taken; with transactions nothing of it was, else a part of it may have been.
        Fenced: somebody else does this at the moment.
    """
    caller = Caller("kafka-resubmission")
    named_ = {"transactional_id": transactional_id} if transactional_id else {}
    producer = opened(KafkaProducer, caller, client, CALL_S, acks="all", max_request_size=64 << 20, **named_)
    sent = 0
    try:
        if transactional_id:
            caller.within(CALL_S, producer.init_transactions)  # whoever does this too is out from here on
        wanted = set(chosen) - look(client, topic).resubmitted
        for lot in _lots(
            one for one in letters(client, topic) if isinstance(one, Letter) and one.record.position in wanted
        ):
            caller.within(LOT_S, partial(_send, producer, topic, lot, whole=bool(transactional_id)))
            sent += len(lot)
            yield sent
        caller.within(CALL_S, partial(producer.close, timeout=GRACE_S))
    except (ProducerFencedError, InvalidProducerEpochError) as error:
        raise Fenced(f"somebody else sends dead letters back at the moment ({named(error)})") from error
    except (KafkaError, TimeoutError) as error:
        raise DeliveryError(f"after {sent} records the broker took no more: {named(error)}") from error
    finally:
        producer._sender.force_close()  # noqa: SLF001 - close() would wait for what cannot be delivered
        caller.close()


def _send(producer: Any, topic: str, lot: Sequence[Letter], *, whole: bool) -> None:  # noqa: ANN401 - untyped
    """One lot and its receipt; with ``whole``, both or neither."""
    if whole:
        producer.begin_transaction()
    try:
        under_way = []
        for message in (letter.again() for letter in lot):
            value = b"" if message.value is None and message.key is None else message.value
            under_way.append(producer.send(message.topic, value=value, key=message.key, headers=list(message.headers)))
        producer.flush(LOT_S)
        for sent in under_way:
            sent.get(0)
        receipt = json.dumps([[*letter.record.position.partition, letter.record.position.offset] for letter in lot])
        producer.send(topic, value=receipt.encode(), headers=[(RECEIPT, b"1")]).get(LOT_S)
    except BaseException:
        if whole:
            with suppress(KafkaError):
                producer.abort_transaction()
        raise
    if whole:
        producer.commit_transaction()


def _lots(chosen: Iterator[Letter]) -> Iterator[list[Letter]]:
    """Letters in lots that a producer holds easily."""
    lot: list[Letter] = []
    size = 0
    for letter in chosen:
        lot.append(letter)
        size += letter.record.size_bytes
        if len(lot) >= LOT_LETTERS or size >= LOT_BYTES:
            yield lot
            lot, size = [], 0
    if lot:
        yield lot


def _receipt(record: Record) -> frozenset[Position]:
    """What a receipt says; nothing where it makes no sense."""
    try:
        said = json.loads(record.value or b"")
        return frozenset(Position(Partition(str(topic), int(number)), int(offset)) for topic, number, offset in said)
    except (ValueError, TypeError):
        return frozenset()


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None  # noqa: PLR2004 - an int64
