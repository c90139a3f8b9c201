"""Where publications go: files of a folder, each whole or absent, and records of a compacted topic."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from kafka import KafkaProducer
from kafka.errors import KafkaError

from tta_daemon.errors import BrokerUnreachable, CheckpointError, PublishError
from tta_daemon.file_names import named_after
from tta_daemon.model.publication import LATEST, Publication, described
from tta_daemon.stream import kafka_changelog
from tta_daemon.stream.kafka_client import Caller, named, opened

UNFINISHED = ".unfinished"
LARGEST_RECORD = 900_000
"""Below what brokers take as one message unless they are told otherwise (1 MiB)."""

CALL_S = 15.0


class Outlet(Protocol):
    """Somewhere to publish to."""

    def put(self, publication: Publication) -> None:
        """Make it seen, whole. Raises PublishError where that fails; what was seen before stays."""

    def latest(self, stream: str) -> Mapping[str, Any] | None:
        """The manifest of what was last published of a stream, as far as that can be known."""

    def close(self) -> None:
        """Let go of what is held."""


class FolderOutlet:
    """Files adapter.VERSION.FORMAT, their manifest adapter.VERSION.json, and a copy of the newest as latest.json.

    A stream with a name has a folder of its own. Implements `Outlet`.

    Args:
        folder: made where it is missing.
        formats: of safetensors and onnx_adapter.
        keep: publications of a stream that stay.
    """

    def __init__(self, folder: Path, formats: Sequence[str], keep: int) -> None:
        self.folder = folder
        self.formats = formats
        self.keep = keep

    def put(self, publication: Publication) -> None:
        """See `Outlet`."""
        folder, stem = self._of(publication.stream), f"adapter.{publication.version}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            files: dict[str, Any] = {}
            for suffix, write in publication.writers(self.formats).items():
                path = folder / f"{stem}.{suffix}"
                appear(path, write)
                files[suffix] = {"name": path.name, **described(path)}
            manifest = json.dumps({**publication.manifest, "files": files}, indent=1, sort_keys=True) + "\n"
            for name in (f"{stem}.json", LATEST):
                appear(folder / name, lambda path: path.write_text(manifest, encoding="utf-8"))
            self._prune(folder)
        except (OSError, RuntimeError) as fault:  # ONNX Runtime's own failures to write are the latter
            raise PublishError(f"{folder}: {getattr(fault, 'strerror', None) or fault}") from fault

    def latest(self, stream: str) -> Mapping[str, Any] | None:
        """See `Outlet`."""
        try:
            found = json.loads((self._of(stream) / LATEST).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def close(self) -> None:
        """See `Outlet`."""

    def _of(self, stream: str) -> Path:
        return self.folder / folder_of(stream) if stream else self.folder

    def _prune(self, folder: Path) -> None:
        versions = {int(number) for path in folder.glob("adapter.*") if (number := path.name.split(".")[1]).isdigit()}
        for version in sorted(versions)[: -self.keep]:
            for path in folder.glob(f"adapter.{version}.*"):
                path.unlink(missing_ok=True)


def folder_of(stream: str) -> str:
    """The name of a stream's folder: none that means another place, or a file of ours."""
    name = named_after(stream)
    ours = name in {".", ".."} or name.startswith(("adapter.", LATEST))
    return name.replace(".", "%2E") if ours else name


class TopicOutlet:
    """Records keyed MODEL/STREAM, the value a safetensors file; compaction leaves the newest. Implements `Outlet`."""

    def __init__(self, client: Mapping[str, Any], topic: str) -> None:
        self.client = client
        self.topic = topic
        self._producer: Any = None
        self._caller: Caller | None = None

    def put(self, publication: Publication) -> None:
        """See `Outlet`."""
        blob = publication.safetensors()
        if len(blob) > LARGEST_RECORD:
            raise PublishError(f"{len(blob)} bytes are too many for a record of {self.topic}; publish to a folder")
        key = f"{publication.about['digest'][:16]}/{publication.stream}".encode()
        headers = [("content-type", b"application/x-safetensors"), ("version", str(publication.version).encode())]
        try:
            producer, caller = self._connected()
            sent = caller.within(CALL_S, lambda: producer.send(self.topic, value=blob, key=key, headers=headers))
            caller.within(CALL_S, lambda: sent.get(CALL_S))
        except (KafkaError, TimeoutError, BrokerUnreachable, CheckpointError) as fault:
            self.close()
            raise PublishError(f"{self.topic}: {named(fault)}") from fault

    def latest(self, stream: str) -> Mapping[str, Any] | None:
        """See `Outlet`: not worth reading the topic for."""

    def close(self) -> None:
        """See `Outlet`."""
        producer, caller, self._producer, self._caller = self._producer, self._caller, None, None
        if producer is not None and caller is not None:
            with suppress(KafkaError, TimeoutError):
                caller.within(CALL_S, lambda: producer.close(timeout=1.0))
        if caller is not None:
            caller.close()

    def _connected(self) -> tuple[Any, Caller]:
        if self._producer is None or self._caller is None:
            kafka_changelog.ensure(self.client, self.topic, setting="publish.topic")
            self._caller = Caller("publish")
            self._producer = opened(KafkaProducer, self._caller, self.client, CALL_S, acks="all")
        return self._producer, self._caller


def appear(path: Path, write: Callable[[Path], object]) -> None:
    """Have a file appear under its name only when all of it is on the disk."""
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        write(unfinished)
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
