"""Saved states of many streams as files: a folder for each partition, a few files for each stream."""

import os
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import structlog

from tta_daemon.control.checkpoint_file import SUFFIX, UNFINISHED, explained, locked, stem_of, sync, write
from tta_daemon.control.snapshot import decode
from tta_daemon.control.stream_states import Found, Round, encoded
from tta_daemon.errors import CheckpointError
from tta_daemon.stream.records import Partition

FLOOR = "floor"
NAMED = re.compile(rf"({FLOOR}|state-.*)\.(\d{{8,}}){re.escape(SUFFIX)}")

log = structlog.get_logger(__name__)


class StreamFolder:
    """Files named TOPIC-PARTITION/STREAM.NUMBER.safetensors, the highest number the newest; implements `StreamStates`.

    The folder belongs to one process at a time.

    Raises:
        CheckpointError: the folder cannot be made or written to, or another process has it.
    """

    with_answers = False
    shared = False

    def __init__(self, folder: Path, keep: int = 3) -> None:
        self.folder = folder
        self.keep = keep
        self._numbers: dict[Partition, dict[str, list[int]]] = {}
        self._floors: dict[Partition, int] = {}
        self._lock = locked(folder)

    def save(self, saved: Round) -> int:
        """See `StreamStates`. Every state is on the disk before the first floor is."""
        blobs = {stream: encoded(state) for stream, state in saved.states.items()}
        with explained(f"the states cannot be saved in {self.folder}"):
            for stream, blob in blobs.items():
                self._write(stream.place, stem_of(stream.name), blob)
            for partition in {stream.place for stream in blobs}:
                sync(self._room(partition))
            for partition, floor in saved.learned.items():
                if self._floors.get(partition) != floor:
                    self._write(partition, FLOOR, saved.floor(partition))
                    sync(self._room(partition))
                    self._floors[partition] = floor
            for stream in saved.gone - set(blobs):
                self._forget(stream.place, stem_of(stream.name))
        return sum(map(len, blobs.values()))

    def restore(self, partition: Partition) -> Iterator[Sequence[Found]]:
        """See `StreamStates`: one stream at a time."""
        for stem, numbers in list(self._known(partition).items()):
            for number in reversed(numbers):
                path = self._path(partition, stem, number)
                try:
                    blob = path.read_bytes()
                    name = decode(blob).stream
                except (OSError, CheckpointError) as fault:
                    log.warning("a saved state is broken; trying the one before it", state=str(path), error=str(fault))
                else:
                    yield [Found(None if stem == FLOOR else name, blob)]
                    break

    def set_aside(self, partition: Partition) -> Iterator[Sequence[Found]]:
        """See `StreamStates`: the files stay, under a name that says when they were set aside."""
        yield from self.restore(partition)
        when = time.strftime("%Y%m%dT%H%M%S")
        with explained(f"the states in {self.folder} cannot be set aside"):
            for stem, numbers in self._numbers.pop(partition, {}).items():
                for number in numbers:
                    path = self._path(partition, stem, number)
                    path.rename(f"{path}.aside-{when}")
        self._floors.pop(partition, None)

    def close(self) -> None:
        """See `StreamStates`."""
        os.close(self._lock)

    def _write(self, partition: Partition, stem: str, blob: bytes) -> None:
        numbers = self._known(partition)[stem]
        number = numbers[-1] + 1 if numbers else 1
        write(self._path(partition, stem, number), blob)
        numbers.append(number)
        while len(numbers) > self.keep:
            self._path(partition, stem, numbers.pop(0)).unlink(missing_ok=True)

    def _forget(self, partition: Partition, stem: str) -> None:
        for number in self._known(partition).pop(stem, ()):
            self._path(partition, stem, number).unlink(missing_ok=True)

    def _known(self, partition: Partition) -> dict[str, list[int]]:
        """The numbers of the files there are, ascending, by what comes before the number."""
        if partition not in self._numbers:
            found: defaultdict[str, list[int]] = defaultdict(list)
            with explained(f"the folder {self.folder} cannot be read"):
                self._room(partition).mkdir(mode=0o700, exist_ok=True)
                for path in self._room(partition).iterdir():
                    if named := NAMED.fullmatch(path.name):
                        found[named[1]].append(int(named[2]))
                    elif path.name.endswith(UNFINISHED):
                        path.unlink(missing_ok=True)
            for numbers in found.values():
                numbers.sort()
            self._numbers[partition] = found
        return self._numbers[partition]

    def _room(self, partition: Partition) -> Path:
        return self.folder / f"{quote(partition.topic, safe='')}-{partition.number}"

    def _path(self, partition: Partition, stem: str, number: int) -> Path:
        return self._room(partition) / f"{stem}.{number:08d}{SUFFIX}"
