"""A compacted topic: made where it is missing, and read from its beginning to its present end."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from kafka import KafkaAdminClient
from kafka.errors import KafkaError, TopicAlreadyExistsError

from tta_daemon.errors import BrokerUnreachable, CheckpointError
from tta_daemon.stream.kafka_client import Caller, named, opened
from tta_daemon.stream.kafka_reading import PATIENCE_S, everything
from tta_daemon.stream.records import Record

CALL_S = 15.0

log = logging.getLogger(__name__)


def ensure(client: Mapping[str, Any], topic: str, like: str = "", setting: str = "checkpoint.topic") -> int:
    """Make sure that the topic exists; one that we make is compacted. Returns how many partitions it has.

    Args:
        client: connection settings.
        topic: the changelog.
        like: has as many partitions as it shall have where we make it; one where that is not to be known.
        setting: names it.

    Raises:
        BrokerUnreachable: no broker answered.
        CheckpointError: the topic is missing and may not be made, with the remedy.
    """
    caller = Caller(f"kafka-changelog-{topic}")
    try:
        admin = opened(KafkaAdminClient, caller, client, CALL_S)
        topics = caller.within(CALL_S, admin.list_topics)
        if topic not in topics:
            partitions = _partitions(caller, admin, like) if like in topics else 1
            wanted = {"num_partitions": partitions, "replication_factor": -1, "configs": {"cleanup.policy": "compact"}}
            with suppress(TopicAlreadyExistsError):  # another replica was faster
                caller.within(CALL_S, lambda: admin.create_topics({topic: wanted}))
                log.info("made the compacted topic %s of %d partitions", topic, partitions)
        found = _partitions(caller, admin, topic)
        caller.within(CALL_S, admin.close)
    except (KafkaError, TimeoutError) as error:
        remedy = "create it, with cleanup.policy=compact"
        raise CheckpointError(f"{setting}: {topic!r} cannot be made: {named(error)} ({remedy})") from error
    else:
        return found
    finally:
        caller.close()


def _partitions(caller: Caller, admin: KafkaAdminClient, topic: str) -> int:
    """How many partitions the topic has; a topic that was just made may take a moment to be known."""
    until = time.monotonic() + CALL_S
    while True:
        (described,) = caller.within(CALL_S, lambda: admin.describe_topics([topic]))
        if (partitions := len(described["partitions"])) or time.monotonic() > until:
            return max(1, partitions)
        time.sleep(0.05)


def read_all(
    client: Mapping[str, Any],
    topic: str,
    *,
    patience_s: float = PATIENCE_S,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Record]:
    """Every committed record of the topic up to where it ends now; fewer only if ``stopped`` says so meanwhile.

    Raises:
        CheckpointError: the brokers refuse, or for ``patience_s`` nothing came although there is more.
    """
    try:
        yield from everything(client, topic, patience_s=patience_s, stopped=stopped)
    except BrokerUnreachable as error:
        raise CheckpointError(f"checkpoint.topic: {topic!r} cannot be read: {error}") from error
