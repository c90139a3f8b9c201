"""What all Kafka clients share: opening them without leaks, calls that end in time, foreign errors, quiet logs."""

import contextlib
import logging
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from kafka.errors import KafkaError
from kafka.net.compat import KafkaNetClient
from kafka.net.inet import KafkaNetSocket

from tta_daemon.errors import BrokerUnreachable
from tta_daemon.stream.records import Partition, Position, Record

T = TypeVar("T")

KNOCK_S = 5.0
"""How long to wait for a broker's port to open: the loop stands still meanwhile, and its callers try again anyway."""

GRACE_S = 5.0
"""How much longer than its own timeout a client's call may take before it counts as hung."""


class Caller:
    """Makes calls one after the other on a thread of its own, so that whoever asked can stop waiting.

    kafka-python has waits without a timeout; a daemon that stands still because of one is worse than one that restarts.
    """

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        Thread(target=self._work, name=name, daemon=True).start()

    def within(self, timeout_s: float, call: Callable[[], T]) -> T:
        """The call's result; TimeoutError if it takes longer (it goes on, and later calls wait behind it)."""
        future: Future[T] = Future()
        self._calls.put((future, call))
        try:
            return future.result(timeout_s)
        except TimeoutError:
            future.cancel()
            raise

    def close(self) -> None:
        """Let the thread end once its last call is over."""
        self._calls.put(None)

    def _work(self) -> None:
        while (entry := self._calls.get()) is not None:
            future, call = entry
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001 - handed to the one who asked
                future.set_exception(error)


class DirectSocket(KafkaNetSocket):  # type: ignore[misc]
    """A connection without a proxy that is closed when it fails: kafka-python leaves it to the garbage collector."""

    SCHEMES = ("direct",)

    async def sock_connect(self, *args: Any, **more: Any) -> Any:  # noqa: ANN401
        """See kafka-python's `KafkaNetSocket`; its second argument is the socket."""
        try:
            return await super().sock_connect(*args, **more)
        except BaseException:
            args[1].close()
            raise


DIRECT = "direct://"


def opened(kind: Callable[..., T], caller: Caller, client: Mapping[str, Any], timeout_s: float, **settings: Any) -> T:  # noqa: ANN401
    """Make a Kafka client and wait until a broker has answered; BrokerUnreachable if none does."""
    made: list[KafkaNetClient] = []

    def net(**given: Any) -> KafkaNetClient:  # noqa: ANN401
        made.append(KafkaNetClient(**given))
        return made[-1]

    quiet_kafka_logs()
    _knock(client, min(KNOCK_S, timeout_s))
    settings = {
        "proxy_url": DIRECT,
        **client,
        **settings,
        "kafka_client": net,
        "bootstrap_timeout_ms": int(timeout_s * 1000),
    }
    try:
        return caller.within(timeout_s + GRACE_S, lambda: kind(**settings))
    except (KafkaError, TimeoutError, OSError) as error:
        refusals = [refusal for half_open in made for refusal in half_open._manager._auth_failures.values()]  # noqa: SLF001
        for half_open in made:  # a client whose constructor fails leaves its network thread behind
            abandon(half_open)
        if refusals:
            raise BrokerUnreachable(f"kafka.security: the broker refuses us ({named(refusals[0])})") from error
        raise _unreachable(client, timeout_s, error) from error


def _knock(client: Mapping[str, Any], timeout_s: float) -> None:
    """Wait until one of the bootstrap servers takes a connection: kafka-python leaks a socket for each failed try."""
    if client.get("proxy_url"):
        return
    given = client.get("bootstrap_servers", "")
    servers = given.split(",") if isinstance(given, str) else list(given)
    deadline, error = time.monotonic() + timeout_s, OSError("no address")
    while time.monotonic() < deadline:
        for server in servers:
            host, _, port = server.strip().rpartition(":")
            try:
                with socket.create_connection((host.strip("[]"), int(port)), timeout=min(5.0, timeout_s)):
                    return
            except (OSError, ValueError) as refused:
                error = OSError(f"{server}: {refused}")
        time.sleep(min(0.2, timeout_s))
    raise _unreachable(client, timeout_s, error)


def _unreachable(client: Mapping[str, Any], timeout_s: float, error: BaseException) -> BrokerUnreachable:
    servers = client.get("bootstrap_servers", "")
    return BrokerUnreachable(
        f"kafka.bootstrap_servers: no broker answered at {servers} within {timeout_s:g} s ({named(error)})"
    )


def abandon(client: Any) -> None:  # noqa: ANN401
    """Close a client's network side without waiting for anybody."""
    with contextlib.suppress(Exception):
        Thread(target=client.close, name="kafka-abandoned", daemon=True).start()


def named(error: BaseException) -> str:
    """An error in one line, with its kind."""
    return f"{type(error).__name__}: {error}".rstrip(": ") if str(error) else type(error).__name__


def record_of(found: Any) -> Record:  # noqa: ANN401
    """A Record of what kafka-python calls a ConsumerRecord."""
    headers = tuple((name, value or b"") for name, value in found.headers or ())
    position = Position(Partition(found.topic, found.partition), found.offset)
    return Record(position, found.key, found.value, headers, max(0.0, found.timestamp / 1000))


class QuietLogs(logging.Filter):
    """Lets each message through once per `every_s`, and kafka-python's without the tracebacks of expected errors."""

    def __init__(self, every_s: float = 30.0) -> None:
        super().__init__()
        self.every_s = every_s
        self._seen: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter`."""
        if record.name.startswith("kafka"):
            record.exc_info = record.exc_text = None
        now, what = time.monotonic(), (record.name, str(record.msg))
        if now - self._seen.get(what, -self.every_s) < self.every_s:
            return False
        if len(self._seen) > 1000:  # noqa: PLR2004 - messages with values in them; start over
            self._seen.clear()
        self._seen[what] = now
        return True


class _Forward(logging.Handler):
    """Hands records on to the root logger's handlers."""

    def emit(self, record: logging.LogRecord) -> None:
        logging.getLogger().handle(record)


def quiet_kafka_logs() -> None:
    """Send what kafka-python logs (warnings and worse) through one filter; may be called again and again."""
    root = logging.getLogger("kafka")
    if not any(isinstance(handler, _Forward) for handler in root.handlers):
        if root.level == logging.NOTSET:
            root.setLevel(logging.WARNING)
        forward = _Forward()
        forward.addFilter(QuietLogs())
        root.addHandler(forward)
        root.propagate = False
