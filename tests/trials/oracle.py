"""What lies in the topics after a trial, held against what lay in the input: the judge of a delivery promise."""

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from trials.members import ANSWERS, BURIED, GROUP, IMAGES

OPEN_S = 120.0
"""More than a transaction stays open whose producer is gone (a minute, unless told otherwise)."""


@dataclass(slots=True)
class Verdict:
    """How often each id lies in the input, among the answers and among the dead letters, as committed reads see it."""

    sent: Counter[str]
    answered: Counter[str]
    buried: Counter[str]
    reasons: Mapping[str, str]
    expected: Mapping[str, str]
    left: int
    complaints: list[str] = field(default_factory=list)

    @property
    def out(self) -> Counter[str]:
        """How often each id came out."""
        return self.answered + self.buried

    @property
    def missing(self) -> Counter[str]:
        """Ids that did not come out as often as they went in."""
        return self.sent - self.out

    @property
    def repeated(self) -> Counter[str]:
        """Ids that came out more often than they went in, and by how much."""
        return self.out - self.sent

    def problems(self, *, exactly_once: bool) -> Iterator[str]:
        """Everything that breaks the promise; nothing where it was kept."""
        if absent := set(self.expected) - set(self.sent):
            yield f"{len(absent)} records never reached the input, which proves nothing of them: {sorted(absent)[:5]}"
        if strangers := set(self.out) - set(self.sent):
            yield f"{len(strangers)} ids came out that were never sent: {sorted(strangers)[:5]}"
        if lost := set(self.sent) - set(self.out):
            yield f"{len(lost)} records were lost: {sorted(lost)[:5]}"
        if exactly_once and (self.missing or self.repeated):
            yield f"{len(self.repeated)} ids came out too often: {sorted(self.repeated.items())[:5]}"
            yield f"{len(self.missing)} ids came out not often enough: {sorted(self.missing.items())[:5]}"
        if wrong := [name for name in self.answered if self.expected.get(name)]:
            yield f"{len(wrong)} malformed records were answered: {sorted(wrong)[:5]}"
        if wrong := [name for name, reason in self.reasons.items() if self.expected.get(name) != reason]:
            yield f"{len(wrong)} dead letters give another reason than theirs: {sorted(wrong)[:5]}"
        if self.left:
            yield f"{self.left} records of the input are not committed by the group"

    def counts(self) -> dict[str, int]:
        """The figures of a report."""
        return {
            "records in the input": sum(self.sent.values()),
            "distinct ids in the input": len(self.sent),
            "answers": sum(self.answered.values()),
            "dead letters": sum(self.buried.values()),
            "ids lost": len(set(self.sent) - set(self.out)),
            "ids that came out more than once": len(self.repeated),
            "answers and letters too many": sum(self.repeated.values()),
        }


def judge(bootstrap: str, expected: Mapping[str, str]) -> Verdict:
    """Read all three topics; ``expected`` maps each id to the reason its dead letter must give, empty for none."""
    buried = list(_records(bootstrap, BURIED))
    return Verdict(
        sent=Counter(_id(record) for record in _records(bootstrap, IMAGES)),
        answered=Counter(json.loads(record.value)["id"] for record in _records(bootstrap, ANSWERS)),
        buried=Counter(_id(record) for record in buried),
        reasons={_id(record): dict(record.headers)["tta.dlq.reason"].decode() for record in buried},
        expected=expected,
        left=Onlooker(bootstrap).left(),
    )


class Onlooker:
    """Looks on from outside the group: how many records it has committed. While it cannot know, it says as before."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._client: KafkaAdminClient | None = None
        self._last: dict[TopicPartition, int] = {}

    def settled(self) -> int:
        """Records before the group's offsets, all partitions together."""
        return sum(self.offsets().values())

    def offsets(self) -> dict[TopicPartition, int]:
        """The group's offsets in the input."""
        try:
            if self._client is None:
                self._client = KafkaAdminClient(
                    bootstrap_servers=self._bootstrap, bootstrap_timeout_ms=2000, request_timeout_ms=2000
                )
            found = self._client.list_group_offsets(GROUP).get(GROUP, {})
        except (KafkaError, OSError):
            self.close()
        else:
            self._last |= {place: max(self._last.get(place, 0), at.offset) for place, at in found.items()}
        return dict(self._last)

    def left(self) -> int:
        """Records of the input that the group has not committed; only while the broker is there."""
        ends, settled = _ends(self._bootstrap, IMAGES), self.settled()
        self.close()
        return sum(ends.values()) - settled

    def close(self) -> None:
        """Let go of the client; the next question opens another."""
        if self._client is not None:
            with suppress(KafkaError, OSError):
                self._client.close()
        self._client = None


def _records(bootstrap: str, topic: str) -> Iterator:
    """Everything that committed reads see of a topic, once no transaction is open in it any more."""
    ends = _ends(bootstrap, topic)
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, isolation_level="read_committed", enable_auto_commit=False)
    consumer.assign(list(ends))
    consumer.seek_to_beginning(*ends)
    until = time.monotonic() + OPEN_S
    while any(consumer.position(place) < end for place, end in ends.items()) and time.monotonic() < until:
        for records in consumer.poll(1000).values():
            yield from records
    consumer.close()


def _ends(bootstrap: str, topic: str) -> dict[TopicPartition, int]:
    """Where a topic ends, open transactions and all."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap)
    ends = consumer.end_offsets([TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)])
    consumer.close()
    return ends


def _id(record) -> str:
    return dict(record.headers)["id"].decode()
