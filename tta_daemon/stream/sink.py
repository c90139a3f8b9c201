"""Where answers and dead letters go: the protocol."""

from collections.abc import Mapping
from typing import Protocol

from tta_daemon.stream.records import Message, Partition
from tta_daemon.stream.source import Source


class Sink(Protocol):
    """What is sent arrives before the offsets it came from are committed, or with them, or not at all."""

    def send(self, message: Message) -> None:
        """Hand over a message; may begin a transaction. Does not wait for delivery."""

    def flush(self, timeout_s: float) -> None:
        """Wait until everything sent is delivered; DeliveryError if anything cannot be."""

    def settle(self, source: Source, offsets: Mapping[Partition, int], timeout_s: float) -> None:
        """Make everything sent since the last settle final, and commit these offsets: in this order, or as one."""

    def abandon(self) -> None:
        """Forget what was sent since the last settle, as far as the delivery mode can."""

    def close(self) -> None:
        """Release the connection; what was not settled may be lost."""
