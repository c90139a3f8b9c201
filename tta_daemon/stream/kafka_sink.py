"""Answers into Kafka: at least once, or with the offsets they came from in one transaction."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from kafka import KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.errors import InvalidProducerEpochError, KafkaError, ProducerFencedError

from tta_daemon.errors import BrokerUnreachable, DeliveryError, Fenced
from tta_daemon.stream.kafka_client import GRACE_S, Caller, QuietLogs, named, opened
from tta_daemon.stream.kafka_source import KafkaSource
from tta_daemon.stream.records import Message, Partition
from tta_daemon.stream.source import Source

T = TypeVar("T")

TRANSACTION_S = 300.0
"""How long a transaction may be open before the broker ends it: as long as a group waits for a poll."""

ABORT_S = 2.0
"""How long an abort may take before a new producer is made, which aborts as well."""

log = logging.getLogger(__name__)
log.addFilter(QuietLogs())


class KafkaSink:
    """A producer, idempotent or transactional; implements `Sink`.

    Args:
        client: connection settings as kafka-python calls them, the same for all clients.
        transactional_id: the name of our transactions, unique to this instance and the same after its restart; None
            for at-least-once delivery.
        connect_timeout_s: how long to wait for the first broker, or for a transaction's end.
        settings: anything else that kafka-python's producer takes.
    """

    def __init__(
        self,
        client: Mapping[str, Any],
        *,
        transactional_id: str | None = None,
        connect_timeout_s: float = 15.0,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.client, self.transactional_id, self.connect_timeout_s = client, transactional_id, connect_timeout_s
        self._settings = {
            "acks": "all",
            "linger_ms": 5,
            "max_request_size": 64 << 20,  # the topic decides
            "max_block_ms": int(connect_timeout_s * 1000),
            "request_timeout_ms": 15_000,
            "transaction_timeout_ms": int(TRANSACTION_S * 1000),
            **(settings or {}),
        }
        self._producer: Any = None
        self._sent: list[Any] = []
        self._in_transaction = False
        self._failed = False  # a transaction must be abandoned before anything else is sent
        self._undecided = False  # its commit was asked for, and nobody said how that went
        self._losses = self._losses_before = 0  # connections lost, by now and when the transaction began
        self._era = 0
        self._open()

    @property
    def exactly_once(self) -> bool:
        """Whether offsets and answers are committed as one."""
        return self.transactional_id is not None

    def send(self, message: Message) -> None:
        """See `Sink`."""
        if self._producer is None or self._failed:
            raise DeliveryError("the last transaction is not abandoned yet" if self._failed else "no connection")
        self._must_be_whole()
        value = b"" if message.value is None and message.key is None else message.value
        with _mapped("sending failed"):
            self._begin()
            headers, partition = list(message.headers), message.partition
            self._sent.append(
                self._producer.send(message.topic, value=value, key=message.key, headers=headers, partition=partition)
            )

    def flush(self, timeout_s: float) -> None:
        """See `Sink`."""
        if not self._sent:
            return
        if self._producer is None:
            raise DeliveryError("no connection to the broker")
        with _mapped("delivery failed"):
            self._call(lambda: self._producer.flush(timeout_s), timeout_s)
            for sent in self._sent:
                sent.get(0)

    def settle(self, source: Source, offsets: Mapping[Partition, int], timeout_s: float) -> bool:
        """See `Sink`."""
        if not self.exactly_once:
            self.flush(timeout_s)
            self._sent.clear()
            return not offsets or source.commit(offsets)
        if not isinstance(source, KafkaSource):
            raise TypeError("a Kafka transaction needs a Kafka source")
        stale, membership = source.membership.era != self._era, source.membership
        self._era = membership.era + membership.announced
        self._failed = True
        if self._in_transaction and stale:
            raise DeliveryError("the group has moved on since these records were read")
        if self._in_transaction or offsets:
            self._commit(source, offsets, timeout_s)
        self._failed = False
        return True

    def abandon(self) -> None:
        """See `Sink`."""
        if self._producer is not None and not self._undecided and not self._torn and self._aborted():
            return
        self._drop()
        try:
            self._open()  # for a transaction, this ends the last one, and tells us if we are fenced
        except BrokerUnreachable as error:
            raise DeliveryError(str(error)) from error

    def close(self) -> None:
        """See `Sink`; takes a few seconds at most."""
        if self._producer is None:
            return
        with contextlib.suppress(KafkaError, TimeoutError):
            if self._in_transaction and not self._undecided:
                self._ask(lambda manager: manager.begin_abort(), ABORT_S)
            self._call(lambda: self._producer.close(timeout=GRACE_S), GRACE_S)
        self._drop()

    def _open(self) -> None:
        caller = Caller("kafka-sink")
        try:
            self._producer = opened(
                KafkaProducer,
                caller,
                self.client,
                self.connect_timeout_s,
                transactional_id=self.transactional_id,
                **self._settings,
            )
            self._caller = caller
            if self.exactly_once:
                self._keep_fences()
                self._count_losses()
                with _mapped("no transaction can begin"):
                    self._call(self._producer.init_transactions, self.connect_timeout_s)
        except (BrokerUnreachable, DeliveryError, Fenced) as error:
            self._drop()
            caller.close()
            if isinstance(error, DeliveryError):
                raise BrokerUnreachable(f"kafka.bootstrap_servers: {error}") from error
            raise

    def _keep_fences(self) -> None:
        """Let a fenced producer fail.

        kafka-python would answer InvalidProducerEpoch by taking a new epoch, and so fence the instance that fenced us.
        """
        self._producer._transaction_manager._supports_epoch_bump = lambda: False  # noqa: SLF001

    def _count_losses(self) -> None:
        """Notice every connection that is lost, for there is no public way to be told."""
        manager = self._producer._sender._client._manager  # noqa: SLF001
        connect = manager.get_connection

        def lost(_: object) -> None:
            self._losses += 1

        def get_connection(node: Any, *args: Any, **more: Any) -> Any:  # noqa: ANN401
            known = manager._conns.get(node)  # noqa: SLF001
            connection = connect(node, *args, **more)
            if connection is not known:
                connection.close_future.add_errback(lost)
            return connection

        for connection in list(manager._conns.values()):  # noqa: SLF001
            connection.close_future.add_errback(lost)
        manager.get_connection = get_connection

    @property
    def _torn(self) -> bool:
        """Whether a connection was lost since the transaction began.

        Kafka keeps an open transaction while a broker restarts. Not every broker of its protocol does: one that has
        forgotten it may yet say yes to its commit, with the offsets in it and the answers out. So we count on none.
        """
        return self._in_transaction and self._losses != self._losses_before

    def _must_be_whole(self) -> None:
        if self._torn:
            raise DeliveryError("the transaction failed: a connection was lost in the middle of it")

    def _aborted(self) -> bool:
        """Whether the producer could be kept, because nothing of what was sent is left in it."""
        if not self.exactly_once:
            return not self._sent
        if self._in_transaction:
            try:
                self._ask(lambda manager: manager.begin_abort(), ABORT_S)
            except (KafkaError, TimeoutError) as error:
                log.info("the transaction could not be aborted, a new producer will: %s", named(error))
                return False
        self._forget()
        return True

    def _begin(self) -> None:
        if self.exactly_once and not self._in_transaction:
            self._losses_before = self._losses
            self._producer.begin_transaction()
            self._in_transaction = True

    def _commit(self, source: KafkaSource, offsets: Mapping[Partition, int], timeout_s: float) -> None:
        """One transaction: everything sent, and the offsets."""
        wanted = {TopicPartition(*partition): OffsetAndMetadata(at, "", -1) for partition, at in offsets.items()}
        who = source.group_metadata()
        if self._producer is None or who is None:
            raise DeliveryError("no connection to the broker")
        if wanted and (who.generation_id < 0 or not who.member_id):  # offsets of no member are taken unfenced
            raise DeliveryError("not a member of the group at the moment")
        self.flush(timeout_s)
        with _mapped("the transaction failed"):
            self._begin()
            if wanted:
                self._ask(lambda manager: manager.send_offsets_to_transaction(wanted, who), timeout_s)
            self._must_be_whole()
            self._undecided = True
            self._ask(lambda manager: manager.begin_commit(), timeout_s)
            self._must_be_whole()
        self._forget()

    def _ask(self, begin: Callable[[Any], Any], timeout_s: float) -> None:
        """Ask the transaction's coordinator for something, as the producer's own methods do, but wait only so long."""
        asked = begin(self._producer._transaction_manager)  # noqa: SLF001
        self._producer._sender.wakeup()  # noqa: SLF001
        if not asked.wait(timeout_ms=timeout_s * 1000):
            raise TimeoutError(f"no answer within {timeout_s:g} s")

    def _call(self, call: Callable[[], T], timeout_s: float) -> T:
        return self._caller.within(timeout_s + 1.0, call)

    def _drop(self) -> None:
        """Let go of the producer, so that nothing it still holds is sent later."""
        if self._producer is not None:
            self._producer._sender.force_close()  # noqa: SLF001 - close() would wait for deliveries first
            self._producer._unregister_cleanup()  # noqa: SLF001
            self._producer._closed = True  # noqa: SLF001 - or its destructor would flush
            self._caller.close()
        self._producer = None
        self._forget()

    def _forget(self) -> None:
        self._sent.clear()
        self._in_transaction = self._failed = self._undecided = False


@contextlib.contextmanager
def _mapped(what: str) -> Iterator[None]:
    """Kafka's errors become ours."""
    try:
        yield
    except (ProducerFencedError, InvalidProducerEpochError) as error:
        raise Fenced(f"{what}: another instance writes as this one ({named(error)})") from error
    except (KafkaError, TimeoutError) as error:
        if isinstance(cause := error.args[-1] if error.args else None, ProducerFencedError | InvalidProducerEpochError):
            raise Fenced(f"{what}: another instance writes as this one ({named(cause)})") from error
        raise DeliveryError(f"{what}: {named(error)}") from error
