"""Where answers and dead letters go: the protocol."""

from collections.abc import Mapping
from typing import Protocol

from tta_daemon.stream.records import Message, Partition
from tta_daemon.stream.source import Source


class Sink(Protocol):
    """What is sent arrives before the offsets it came from are committed, or with them, or not at all.

    With exactly-once delivery, the offsets of a settlement must cover every record that was answered since the last
    one: an answer beyond an offset that is committed would be given again after a crash (see `Ledger.ragged`).
    After a DeliveryError, call `abandon` until it succeeds, then `rewind` the source, then go on.
    """

    def send(self, message: Message) -> None:
        """Hand over a message; may begin a transaction. Does not wait for delivery. May raise DeliveryError."""

    def flush(self, timeout_s: float) -> None:
        """Wait until everything sent is delivered; DeliveryError if anything cannot be."""

    def settle(self, source: Source, offsets: Mapping[Partition, int], timeout_s: float) -> bool:
        """Make everything sent since the last settle final, and commit these offsets: in this order, or as one.

        Returns whether the offsets are committed. If not, what was sent is final yet, and they are to be offered again.

        Raises:
            DeliveryError: not settled, or not known to be; nothing that was sent may be counted on.
            Fenced: another instance has taken over.
        """

    def abandon(self) -> None:
        """Forget what was sent since the last settle, as far as the delivery mode can, and be ready to send again.

        Raises:
            DeliveryError: the broker is away, so the last transaction's fate is not known yet: try again later.
            Fenced: another instance has taken over.
        """

    def close(self) -> None:
        """Release the connection; what was not settled may be lost."""
