"""Saved states of many streams as records of a compacted topic, each partition's beside those of no other."""

import json
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tta_daemon.control.checkpoint_kafka import LARGEST_BYTES, NUMBER, PART_BYTES, WHOLE
from tta_daemon.control.stream_states import Found, Round, encoded
from tta_daemon.errors import CheckpointError
from tta_daemon.stream.records import Message, Partition, Record, Stream
from tta_daemon.stream.sink import Sink

PARTS = "tta.state.parts"
"""Header: of how many records the state is one."""

COPIES = 2
"""States of several records are kept side by side, so that one which was sent in part leaves a whole one."""


class Key(NamedTuple):
    """What a record of the changelog is a part of; ``name`` None is the partition's floor."""

    topic: str
    number: int
    name: str | None
    copy: int = 0
    part: int = 0

    def encode(self) -> bytes:
        """As it stands in the topic."""
        return json.dumps(self, ensure_ascii=False, separators=(",", ":")).encode()


@dataclass(slots=True)
class _Sent:
    """What there is of a stream in the topic: its newest number, and every record that holds a part of it."""

    number: int = 0
    keys: set[Key] = field(default_factory=set)


class StreamChangelog:
    """A changelog whose partitions follow the input's, one for one where it has as many; implements `StreamStates`.

    Args:
        sink: the daemon's own, so that in exactly_once a round is final with the answers it goes with, or not at all.
        topic: the changelog; compacted.
        partitions: how many it has.
        read: all committed records of one of its partitions, a few at a time.
        flush_s: how long the states of a round may take to arrive, before its floors are sent.
    """

    with_answers = True
    shared = True

    def __init__(
        self,
        sink: Sink,
        topic: str,
        partitions: int,
        read: Callable[[int], Iterator[Sequence[Record]]],
        flush_s: float = 30.0,
    ) -> None:
        self.sink = sink
        self.topic = topic
        self.partitions = partitions
        self.flush_s = flush_s
        self._read = read
        self._sent: dict[Partition, dict[str, _Sent]] = {}

    def save(self, saved: Round) -> int:
        """See `StreamStates`. Every state is delivered before the first floor is sent."""
        blobs = {stream: encoded(state) for stream, state in saved.states.items()}
        if too_large := [stream.name for stream, blob in blobs.items() if len(blob) > LARGEST_BYTES]:
            remedy = 'use checkpoint.kind = "file" for this method'
            raise CheckpointError(f"the state of stream {too_large[0]!r} is too large for {self.topic} ({remedy})")
        for stream, blob in blobs.items():
            self._send(stream, blob)
        for stream in saved.gone - set(blobs):
            self._bury(stream)
        self.sink.flush(self.flush_s)
        for partition in saved.learned:
            self._put(Key(*partition, None), saved.floor(partition))
        return sum(map(len, blobs.values()))

    def restore(self, partition: Partition) -> Iterator[Sequence[Found]]:
        """See `StreamStates`."""
        yield from self._found(partition, aside="")

    def set_aside(self, partition: Partition) -> Iterator[Sequence[Found]]:
        """See `StreamStates`: it goes under the topic's name with .aside-TIME, with the next settlement."""
        yield from self._found(partition, aside=f"{partition.topic}.aside-{time.strftime('%Y%m%dT%H%M%S')}")

    def close(self) -> None:
        """Nothing to let go of: the sink is the daemon's."""

    def _found(self, partition: Partition, aside: str) -> Iterator[Sequence[Found]]:
        sent = self._sent[partition] = {}
        gathering: dict[tuple[str, str], dict[int, bytes]] = {}
        for records in self._read(partition.number % self.partitions):
            found = []
            for record in records:
                key = _key(record.key)
                if key is None or (key.topic, key.number) != partition:
                    continue
                if aside:
                    self._put(key._replace(topic=aside), record.value, record)
                    self._put(key, None)
                if key.name is None:
                    found += [Found(None, record.value)] if record.value else []
                elif (blob := _gathered(key, record, sent, gathering)) is not None:
                    found.append(Found(key.name, blob))
            yield found

    def _send(self, stream: Stream, blob: bytes) -> None:
        place = stream.place
        sent = self._sent.setdefault(place, {}).setdefault(stream.name, _Sent())
        parts = [blob[at : at + PART_BYTES] for at in range(0, len(blob), PART_BYTES)]
        sent.number += 1
        copy = sent.number % COPIES if len(parts) > 1 else 0
        numbered = (NUMBER, str(sent.number).encode()), (PARTS, str(len(parts)).encode())
        headers = (*numbered, (WHOLE, uuid.uuid4().hex.encode()))
        for part, value in enumerate(parts):
            key = Key(*place, stream.name, copy, part)
            sent.keys.add(key)
            self.sink.send(Message(self.topic, key.encode(), value, headers, place.number % self.partitions))

    def _bury(self, stream: Stream) -> None:
        sent = self._sent.get(stream.place, {}).pop(stream.name, None)
        for key in sent.keys if sent is not None else ():
            self._put(key, None)

    def _put(self, key: Key, value: bytes | None, like: Record | None = None) -> None:
        headers = () if like is None else like.headers
        self.sink.send(Message(self.topic, key.encode(), value, headers, key.number % self.partitions))


def _gathered(
    key: Key, record: Record, sent: dict[str, _Sent], gathering: dict[tuple[str, str], dict[int, bytes]]
) -> bytes | None:
    """The state that this record completes, if it is newer than what was found before; empty where it is forgotten."""
    name = key.name or ""
    known = sent.setdefault(name, _Sent())
    if record.value is None:
        known.keys.discard(key)
        return None if known.keys else b""
    known.keys.add(key)
    parts = gathering.setdefault((name, record.header(WHOLE) or ""), {})
    parts[key.part] = record.value
    if len(parts) < _number(record.header(PARTS)):
        return None
    del gathering[name, record.header(WHOLE) or ""]
    number = _number(record.header(NUMBER))
    if number < known.number:
        return None
    known.number = number
    return b"".join(value for _, value in sorted(parts.items()))


def _key(encoded_key: bytes | None) -> Key | None:
    """What `Key.encode` returned; None where somebody else wrote it."""
    try:
        topic, number, name, copy, part = json.loads(encoded_key or b"")
    except (ValueError, TypeError, RecursionError):
        return None
    fits = isinstance(topic, str) and isinstance(name, str | None)
    return Key(topic, number, name, copy, part) if fits and all(type(n) is int for n in (number, copy, part)) else None


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() and len(text) < 19 else 0  # noqa: PLR2004 - digits of an int64
