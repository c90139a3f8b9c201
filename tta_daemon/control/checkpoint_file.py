"""Saved states as files of one folder: each whole or absent, the newest few kept."""

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import structlog

from tta_daemon.control.checkpoint import newest_whole
from tta_daemon.control.snapshot import Snapshot, encode
from tta_daemon.errors import CheckpointError
from tta_daemon.file_names import named_after

SUFFIX = ".safetensors"
UNFINISHED = ".unfinished"

log = structlog.get_logger(__name__)


class FileCheckpoint:
    """Files named STREAM.NUMBER.safetensors, the highest number the newest; implements `Checkpoint`.

    A file appears under its name only when all of it is on the disk. The folder belongs to one process at a time.

    Raises:
        CheckpointError: the folder cannot be made or written to, or another process has it.
    """

    with_answers = False

    def __init__(self, folder: Path, keep: int = 3) -> None:
        self.folder = folder
        self.keep = keep
        self._lock = locked(folder)
        for stale in folder.glob(f"*{UNFINISHED}"):
            stale.unlink(missing_ok=True)

    def save(self, snapshot: Snapshot) -> int:
        """See `Checkpoint`."""
        blob = encode(snapshot)
        kept = self._files(snapshot.stream)
        number = kept[0][0] + 1 if kept else 1
        final = self.folder / f"{stem_of(snapshot.stream)}.{number:08d}{SUFFIX}"
        with explained(f"the state cannot be saved in {self.folder}"):
            write(final, blob)
            sync(self.folder)
            for _, old in kept[max(0, self.keep - 1) :]:
                old.unlink(missing_ok=True)
        return len(blob)

    def latest(self, stream: str) -> Snapshot | None:
        """See `Checkpoint`."""
        return newest_whole(self._read(stream))

    def set_aside(self, stream: str) -> int:
        """See `Checkpoint`: the files stay, under a name that says when they were set aside."""
        files, when = self._files(stream), time.strftime("%Y%m%dT%H%M%S")
        with explained(f"the state in {self.folder} cannot be set aside"):
            for _, path in files:
                path.rename(f"{path}.aside-{when}")
            sync(self.folder)
        return len(files)

    def close(self) -> None:
        """See `Checkpoint`."""
        os.close(self._lock)

    def _read(self, stream: str) -> Iterator[tuple[str, bytes]]:
        """The stream's files, newest first; what the disk does not give counts as broken."""
        for _, path in self._files(stream):
            try:
                yield str(path), path.read_bytes()
            except OSError as error:
                log.warning("a saved state cannot be read; trying the one before it", state=str(path), error=str(error))

    def _files(self, stream: str) -> list[tuple[int, Path]]:
        """Number and path of each of the stream's files, newest first."""
        named = re.compile(re.escape(stem_of(stream)) + r"\.(\d{8,})" + re.escape(SUFFIX))
        with explained(f"the folder {self.folder} cannot be read"):
            found = [(match, path) for path in self.folder.iterdir() if (match := named.fullmatch(path.name))]
        return sorted(((int(match[1]), path) for match, path in found), reverse=True)


def locked(folder: Path) -> int:
    """Make the folder this process's own, for as long as the returned descriptor is open.

    Raises:
        CheckpointError: it cannot be made or written to, or another process has it.
    """
    with explained(f"no state can be saved in {folder}"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        remedy = "give each replica a checkpoint.folder of its own"
        raise CheckpointError(f"another process keeps its state in {folder} ({remedy})") from error
    return lock


def write(final: Path, blob: bytes) -> None:
    """Have a file appear under its name only when all of it is on the disk; it lasts once its folder is synced."""
    unfinished = final.with_name(final.name + UNFINISHED)
    try:
        with unfinished.open("wb") as file:
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(final)
    except OSError:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise


def stem_of(stream: str) -> str:
    """What the files of a stream's states begin with."""
    return named_after(stream, "state-")


def sync(folder: Path) -> None:
    """Make a rename last: it is an entry of the folder, and that is written by itself."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Errors of the disk become CheckpointError: ``what``, and why."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{what}: {error.strerror or error}") from error
