"""A compacted topic: made where it is missing, and read from its beginning to its present end."""

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from kafka import KafkaAdminClient
from kafka.errors import KafkaError, TopicAlreadyExistsError

from tta_daemon.errors import BrokerUnreachable, CheckpointError
from tta_daemon.stream.kafka_client import Caller, named, opened
from tta_daemon.stream.kafka_reading import PATIENCE_S, everything
from tta_daemon.stream.records import Record

CALL_S = 15.0

log = logging.getLogger(__name__)


def ensure(client: Mapping[str, Any], topic: str, setting: str = "checkpoint.topic") -> None:
    """Make sure that the topic exists; one that we make is compacted.

    Raises:
        BrokerUnreachable: no broker answered.
        CheckpointError: the topic is missing and may not be made, with the remedy.
    """
    caller = Caller(f"kafka-changelog-{topic}")
    try:
        admin = opened(KafkaAdminClient, caller, client, CALL_S)
        wanted = {"num_partitions": 1, "replication_factor": -1, "configs": {"cleanup.policy": "compact"}}
        if topic not in caller.within(CALL_S, admin.list_topics):
            caller.within(CALL_S, lambda: admin.create_topics({topic: wanted}))
            log.info("made the compacted topic %s", topic)
        caller.within(CALL_S, admin.close)
    except TopicAlreadyExistsError:
        pass  # another replica was faster
    except (KafkaError, TimeoutError) as error:
        remedy = "create it, with cleanup.policy=compact"
        raise CheckpointError(f"{setting}: {topic!r} cannot be made: {named(error)} ({remedy})") from error
    finally:
        caller.close()


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
