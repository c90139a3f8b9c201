"""Saved states as records of a compacted topic, sent with the answers: whoever reads it takes over where they end."""

import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from tta_daemon.control.checkpoint import newest_whole
from tta_daemon.control.snapshot import Snapshot, encode
from tta_daemon.errors import CheckpointError
from tta_daemon.stream.records import Message, Record
from tta_daemon.stream.sink import Sink

PART_BYTES = 900_000
"""Below what brokers take as one message unless they are told otherwise (1 MiB), headers and key included."""

LARGEST_BYTES = 256 << 20
"""More than this in one settlement would hold up the answers in it."""

COPIES = 3
"""States that are kept side by side, so that one which was sent in part leaves a whole one."""

KEY = re.compile(rb"(.*)/(\d{1,9})/(\d{1,9})", re.DOTALL)

NUMBER, WHOLE = "tta.state.number", "tta.state.whole"
"""Headers: which of the stream's states this is a part of, and by which attempt to save it."""


class KafkaCheckpoint:
    """A changelog: records keyed STREAM/COPY/PART, mostly one for each state; implements `Checkpoint`.

    Args:
        sink: the daemon's own, so that in exactly_once a state is final with the answers it goes with, or not at all.
        topic: the changelog; compacted.
        read: all records of the changelog from its beginning to its present end; CheckpointError if it cannot be read.
        owner: goes before each stream's name, where replicas have streams of one name that are not the same.
    """

    with_answers = True

    def __init__(self, sink: Sink, topic: str, read: Callable[[], Iterable[Record]], owner: str = "") -> None:
        self.sink = sink
        self.topic = topic
        self.owner = owner
        self._read = read
        self._numbers: dict[str, int] = {}

    def save(self, snapshot: Snapshot) -> int:
        """See `Checkpoint`."""
        blob = encode(snapshot)
        if len(blob) > LARGEST_BYTES:
            remedy = 'use checkpoint.kind = "file" for this method'
            raise CheckpointError(f"a state of {len(blob)} bytes is too large for {self.topic} ({remedy})")
        number = self._numbers.get(snapshot.stream, 0) + 1
        for message in self._messages(snapshot.stream, number, blob):
            self.sink.send(message)
        self._numbers[snapshot.stream] = number
        return len(blob)

    def latest(self, stream: str) -> Snapshot | None:
        """See `Checkpoint`. Reads the changelog anew: another replica may have written to it."""
        states = self._states(stream)
        self._numbers[stream] = max((state.number for state in states), default=0)
        return newest_whole((f"{self.topic} {stream}/{state.copy}", state.blob()) for state in states)

    def set_aside(self, stream: str) -> int:
        """See `Checkpoint`: the states go under the name STREAM.aside-TIME, with the next settlement."""
        states, aside = self._states(stream), f"{stream}.aside-{time.strftime('%Y%m%dT%H%M%S')}"
        for state in states:
            for message in self._messages(aside, state.number, state.blob()):
                self.sink.send(message)
            for part in state.parts:
                self.sink.send(Message(self.topic, self._key(stream, state.copy, part), None))
        self._numbers[stream] = max((state.number for state in states), default=0)
        return len(states)

    def close(self) -> None:
        """Nothing to let go of: the sink is the daemon's."""

    def _messages(self, stream: str, number: int, blob: bytes) -> Iterator[Message]:
        headers = ((NUMBER, str(number).encode()), (WHOLE, uuid.uuid4().hex.encode()))
        for part, at in enumerate(range(0, len(blob), PART_BYTES)):
            yield Message(self.topic, self._key(stream, number % COPIES, part), blob[at : at + PART_BYTES], headers)

    def _key(self, stream: str, copy: int, part: int) -> bytes:
        return f"{self.owner}{stream}/{copy}/{part}".encode()

    def _states(self, stream: str) -> list["_State"]:
        """The stream's states as far as they are there, newest first."""
        states: dict[tuple[int, str], _State] = {}
        for (copy, part), record in sorted(self._newest_parts(stream).items()):
            whole = _number((record.header(NUMBER) or "").encode()), record.header(WHOLE) or ""
            states.setdefault(whole, _State(whole[0], copy)).parts[part] = record.value or b""
        return sorted(states.values(), key=lambda state: state.number, reverse=True)

    def _newest_parts(self, stream: str) -> dict[tuple[int, int], Record]:
        """What compaction leaves sooner or later: the last record of each key, and no tombstones."""
        kept: dict[tuple[int, int], Record] = {}
        for record in self._read():
            named = KEY.fullmatch(record.key or b"")
            if named and named[1] == f"{self.owner}{stream}".encode():
                kept[_number(named[2]), _number(named[3])] = record
        return {place: record for place, record in kept.items() if record.value is not None}


@dataclass(slots=True)
class _State:
    """One state as it was found: the parts that were sent as one."""

    number: int
    copy: int
    parts: dict[int, bytes] = field(default_factory=dict)

    def blob(self) -> bytes:
        """The parts in order. If one is missing, the state's own digest tells."""
        return b"".join(value for _, value in sorted(self.parts.items()))


def _number(text: bytes) -> int:
    return int(text) if text.isdigit() and len(text) < 19 else 0  # noqa: PLR2004 - digits of an int64
