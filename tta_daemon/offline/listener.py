"""The reader at the other end of the demo: whoever uses the answers, and whoever looks after the dead letters."""

import json
from types import TracebackType
from typing import Self

from kafka import KafkaConsumer, TopicPartition

from tta_daemon.offline.scoreboard import Scoreboard


class Listener:
    """Reads the answers and the dead letters from the start, without a group: only what was committed."""

    def __init__(self, bootstrap: str, answers: str, dead_letters: str) -> None:
        self._answers = answers
        self._consumer = KafkaConsumer(
            bootstrap_servers=bootstrap,
            client_id="demo-listener",
            enable_auto_commit=False,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
        )
        topics = (answers, dead_letters)
        places = [TopicPartition(topic, n) for topic in topics for n in self._consumer.partitions_for_topic(topic)]
        self._consumer.assign(places)
        self._consumer.seek_to_beginning(*places)

    def hear(self, board: Scoreboard, timeout_s: float) -> bool:
        """Enter what has come onto the board; return whether anything has."""
        found = self._consumer.poll(timeout_ms=timeout_s * 1000)
        for place, records in found.items():
            for record in records:
                headers = {name: value.decode() for name, value in record.headers}
                if place.topic == self._answers:
                    answer = json.loads(record.value)
                    board.answer(answer["id"], answer["predictions"][0]["class"], answer["source_class"][0])
                else:
                    board.bury(headers["id"], headers["tta.dlq.reason"])
        return bool(found)

    def __enter__(self) -> Self:
        """Begin to listen."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening."""
        self._consumer.close()
